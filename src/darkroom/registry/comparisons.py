"""Count the comparisons of candidates with a champion per test set, and keep the reference of margins.

The more comparisons are made on a test set, the more likely one of them is won by chance, so they are counted, in one
tag of the registered model per test set. A test set that has grown is recognised by the images that it shares with an
earlier one. Their share is estimated from the smallest ids, which are digests of content and therefore a random sample
of the images (Broder 1997).
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from darkroom.errors import RegistryError
from darkroom.registry.ledger import ledger
from darkroom.registry.snapshot import Registered, Version
from darkroom.tracking import runs
from darkroom.tracking.store import client, store_errors, tracking_uri

KEY = "comparisons."  # registered-model tags comparisons.<first id of the test set when it was first used>.<number>
REFERENCE = "margin.reference"  # version tag: the version with which the next candidate is compared for a margin
SAMPLE = 64  # ids that are kept per test set
ID_DIGITS, COMPARISON_DIGITS = 12, 8  # of a sha256; a registered model's tag holds 5,000 characters
REMEMBERED = 365  # comparisons that are recognised when repeated
SHOWN, REASON_CHARACTERS = 6, 80  # decisions that are kept in words, per test set
SAME_TEST_SET = 0.5  # minimum share of images that were in the earlier test set


def number(registered: Registered, ids: Iterable[str], comparison: str) -> int:
    """Return the number of a comparison on this test set, from 1; a repeated comparison keeps its number.

    Args:
        ids: of the test images, sha256 of content.
        comparison: digest of the two compared models.

    Raises:
        RegistryError: a tag is damaged.
    """
    _, known = _known(registered, sample(ids))
    made, short = _split(known["made"], COMPARISON_DIGITS), comparison[:COMPARISON_DIGITS]
    n_made: int = known["n"]
    return n_made - len(made) + made.index(short) + 1 if short in made else n_made + 1


def record(name: str, ids: Iterable[str], comparison: str, *, run_id: str, passed: bool, reason: str) -> None:
    """Count a comparison in the registry, once, and keep the last few decisions in words, promoted or not.

    Args:
        run_id: of the candidate's training.
        passed: whether it passed all gates.
        reason: a sentence, of which the beginning is kept.

    Raises:
        LockedError, RegistryError: see ledger.
    """
    now = sample(ids)
    with ledger(name) as book:
        key, known = _known(book.read(), now)
        made, short = _split(known["made"], COMPARISON_DIGITS), comparison[:COMPARISON_DIGITS]
        if short in made:
            return
        now_utc = datetime.now(UTC).isoformat(timespec="seconds")
        decision = {"at": now_utc, "run": run_id, "passed": passed, "reason": reason[:REASON_CHARACTERS]}
        value = {
            "n": known["n"] + 1,
            "sample": "".join(now),
            "made": "".join([*made, short][-REMEMBERED:]),
            "decisions": [*known["decisions"], decision][-SHOWN:],
        }
        with book.writing():
            book.client.set_registered_model_tag(name, key, json.dumps(value))


def decided(registered: Registered) -> list[dict[str, Any]]:
    """Return {n_comparisons, decisions} per test set; a decision is {at, run, passed, reason}, oldest first.

    Raises:
        RegistryError: a tag is damaged.
    """
    found = [_parsed(registered, key) for key in sorted(registered.tags) if key.startswith(KEY)]
    return [{"n_comparisons": content["n"], "decisions": content["decisions"]} for content in found]


def note(run_id: str, tags: Mapping[str, str], *, decision: str) -> None:
    """Set tags of a run and write the decision into its description; a run that is gone is ignored.

    Args:
        decision: in Markdown.
    """
    with runs.reopen_if_known(run_id) as run:
        if run:
            run.set_tags(tags)
            run.note("Decision", decision)


def reference(registered: Registered, champion: Version) -> Version | None:
    """Return the reference for a margin besides the champion, None if that is the champion itself.

    A champion that was promoted within a margin, not because it is better, keeps the reference of its predecessor, so
    that small losses do not add up.

    Raises:
        RegistryError: the reference was deleted.
    """
    held = champion.tags.get(REFERENCE, champion.version)
    if held == champion.version:
        return None
    if held not in registered.versions:
        raise RegistryError(
            f"{champion.name}: the margin of the champion, version {champion.version}, is held against version {held} "
            f"(its tag {REFERENCE}), which was deleted; restore that version from a backup, or set the tag to "
            f"{champion.version} in MLflow's UI, and the margin is held against the champion alone"
        )
    return registered.versions[held]


def hold_against(version: Version, held: Version) -> None:
    """Record `held` as the version's reference for margins, which may be itself."""
    if version.tags.get(REFERENCE) != held.version:
        with store_errors(tracking_uri()):
            client().set_model_version_tag(version.name, version.version, REFERENCE, held.version)


def sample(ids: Iterable[str]) -> list[str]:
    """Return the smallest ids, shortened, in order."""
    return sorted({image[:ID_DIGITS] for image in ids})[:SAMPLE]


def share_known(before: Sequence[str], now: Sequence[str]) -> float:
    """Return the estimated share of the images of a test set that were in an earlier one, from their samples."""
    # A full sample has no information beyond its last id.
    bound = min((ids[-1] for ids in (before, now) if len(ids) == SAMPLE), default="g")
    compared = [image for image in now if image <= bound]
    return len(set(compared) & set(before)) / len(compared) if compared else 0.0


def _known(registered: Registered, now: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the key and the content of this test set's tag; the content is empty for a new one."""
    # Another test set may begin with the same id.
    new = next(key for n in itertools.count(1) if (key := f"{KEY}{now[0]}.{n}") not in registered.tags)
    best, found = SAME_TEST_SET, (new, {"n": 0, "sample": "", "made": "", "decisions": []})
    for key in sorted(registered.tags):
        if key.startswith(KEY):
            content = _parsed(registered, key)
            if (share := share_known(_split(content["sample"], ID_DIGITS), now)) >= best:
                best, found = share, (key, content)
    return found


def _parsed(registered: Registered, key: str) -> dict[str, Any]:
    try:
        content = json.loads(registered.tags[key])
        return {
            "n": int(content["n"]),
            "sample": str(content["sample"]),
            "made": str(content["made"]),
            "decisions": list(content["decisions"]),
        }
    except (ValueError, TypeError, KeyError):
        raise RegistryError(
            f"{registered.name}: the tag {key} of the registered model is damaged ({registered.tags[key][:40]!r}); "
            "delete it in MLflow's UI, and the comparisons on this test set are counted from 1 again"
        ) from None


def _split(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(0, len(text), length)]
