"""The only owner of registered names, versions, aliases and their history; what readers need is in versions.py.

MLflow's aliases know no compare-and-set and no history. Here every move happens under a lock that suits the store
(registry_lock.py), only if the champion is still the one that the decision was taken against, is read back, and is
recorded (ledger.py). A call that was interrupted can be repeated: what it had begun is finished first, and a version is
recognised by its model's sha256.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import RegistryError
from darkroom.files import sha256_of
from darkroom.ledger import CHALLENGER, CHAMPION, PREVIOUS, Mark, Move, ledger
from darkroom.registered import DOWNLOAD_NOTE, MODEL_FILE, SHA256, Registered, Version
from darkroom.store import client, download, existing, registry_uri, store_errors, tracking_uri
from darkroom.versions import damage, find, read

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient

ROLLED_BACK = "rolled_back"  # version tag: why it must not become champion again by itself
AGAINST = "challenge.against"  # version tag: the champion that it was compared with, or NOBODY
NOBODY = "none"
DESCRIPTION_CHARACTERS = 5000  # what MLflow's column for a version's description holds
VERIFY = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("darkroom", "keras", "tensorflow"):
            raise ImportError(f"a consumer has no {name}")

sys.meta_path.insert(0, Refuse())
import numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = model.predict(np.load(sys.argv[2]))["probabilities"]
np.save(sys.argv[3], np.array([list(row.values()) for row in rows]))
"""


def register(name: str, *, model_uri: str, model_sha256: str, tags: Mapping[str, str]) -> Version:
    """Return the version of a logged model, registered now unless one with the same model.onnx is there and whole.

    Args:
        model_uri: what `Run.log_package` returned.
        model_sha256: of the model.onnx that was evaluated.
        tags: lineage; the sha256 of every file is added as sha256/<path>.

    Raises:
        RegistryError: the store has no such model, holds another model.onnx under that URI, or refuses.
    """
    opened = client()
    with store_errors(tracking_uri()), tempfile.TemporaryDirectory() as scratch:
        folder = download(model_uri, scratch)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DOWNLOAD_NOTE)
        sums = {f"{SHA256}{path.relative_to(folder).as_posix()}": sha256_of(path) for path in files}
    if sums.get(f"{SHA256}{MODEL_FILE}") != model_sha256:
        found = sums.get(f"{SHA256}{MODEL_FILE}", "none")
        raise RegistryError(
            f"{model_uri} holds a model.onnx with sha256 {found[:12]}..., evaluated was {model_sha256[:12]}...; "
            "train and evaluate again (`dvc repro --force train`)"
        )
    _create(opened, name)
    with ledger(name) as book:
        known = book.read().with_model(model_sha256)
        if known and not damage(known):
            return known
        model_id = model_uri.removeprefix("models:/")
        with book.writing():
            created = opened.create_model_version(name, source=model_uri, tags={**tags, **sums}, model_id=model_id)
    return find(name, version=str(created.version))


def verify(version: Version, images: "np.ndarray", expected: "np.ndarray", *, tolerance: float = 1e-5) -> float:
    """Return the greatest difference between what the registered version answers and what was evaluated.

    The version is loaded as a consumer does, from `models:/<name>/<version>`, in a fresh process in which darkroom,
    Keras and TensorFlow cannot be imported.

    Args:
        images: (n, height, width, channels), uint8.
        expected: (n, classes), the probabilities that evaluate recorded for them.

    Raises:
        RegistryError: the version cannot be loaded, or a probability differs by more than `tolerance`.
    """
    import numpy as np

    uri = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "images.npy"), Path(scratch, "probabilities.npy")
        np.save(source, images)
        client()  # sets MLFLOW_TRACKING_URI for the child
        command = [sys.executable, "-B", "-c", VERIFY, uri, str(source), str(target)]
        ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            raise RegistryError(f"{uri} cannot be loaded in a fresh process, it stays out of production: {last}")
        found = np.load(target)
    if found.shape != expected.shape:
        raise RegistryError(f"{uri} answers with shape {found.shape}, evaluated was {expected.shape}")
    difference = float(np.abs(found - expected).max(initial=0.0))
    if not difference <= tolerance:
        raise RegistryError(
            f"{uri} differs from the evaluated model by {difference:.2g} in a probability, at most {tolerance:.2g} is "
            "allowed; it stays out of production"
        )
    return difference


def challenge(version: Version, *, replacing: str | None, reasons: Sequence[str]) -> None:
    """Point `challenger` at the version: it may become champion, by `promote` or by `approve`.

    Args:
        replacing: the champion's version that the decision was taken against, None if there was none.

    Raises:
        RegistryError: the champion is another one by now, or the version was rolled back meanwhile.
    """
    with ledger(version.name) as book:
        registered = book.read()
        if registered.aliases.get(CHAMPION) != version.version:
            _refuse_another_champion(registered, replacing)
            _refuse_rolled_back(registered, version.version)
        before = registered.aliases.get(CHALLENGER)
        against = Mark(version.version, AGAINST, replacing or NOBODY)
        book.move([Move(CHALLENGER, before, version.version, reasons)], [against])


def promote(version: Version, *, replacing: str | None, reasons: Sequence[str]) -> None:
    """Point `champion` at the version and `previous` at the champion it replaces.

    Args:
        replacing: the champion's version that the decision was taken against, None if there was none.

    Raises:
        RegistryError: the champion is another one by now, or the version was rolled back meanwhile.
    """
    with ledger(version.name) as book:
        registered = book.read()
        if registered.aliases.get(CHAMPION) == version.version:
            return
        _refuse_another_champion(registered, replacing)
        _refuse_rolled_back(registered, version.version)
        book.move(_to_champion(registered, version.version, reasons, [f"replaced by version {version.version}"]))


def approve(name: str, *, version: str | None = None, reason: str = "") -> Version:
    """Make the challenger champion and return it; if it is champion already, nothing happens.

    Args:
        version: the version that is meant; None: whichever is the challenger.
        reason: kept in the history.

    Raises:
        RegistryError: there is no challenger, it is another version, it was compared with a champion that is no longer
            champion, it was rolled back, or a file of it is gone or changed.
    """
    waiting = find(name, alias=CHALLENGER)
    if version and waiting.version != version:
        raise RegistryError(
            f"{name}: the challenger is version {waiting.version}, not {version}; only a challenger can be approved"
        )
    _refuse_damaged(waiting)
    with ledger(name) as book:
        registered = book.read()
        if registered.aliases.get(CHAMPION) == waiting.version:
            return waiting
        if (now := registered.aliases.get(CHALLENGER)) != waiting.version:
            raise RegistryError(f"{name}: the challenger is version {now or 'none'} by now; look at it again")
        _refuse_rolled_back(registered, waiting.version)
        against, champion = waiting.tags.get(AGAINST), registered.aliases.get(CHAMPION, NOBODY)
        if against != champion:
            raise RegistryError(
                f"{name} version {waiting.version} was compared with version {against or 'unknown'}, the champion is "
                f"version {champion} by now; run `dvc repro promote` again"
            )
        reasons = [f"approved: {reason}" if reason else "approved"]
        book.move(_to_champion(registered, waiting.version, reasons, [f"replaced by version {waiting.version}"]))
    return find(name, alias=CHAMPION)


def rollback(name: str, *, reason: str, to: str | None = None) -> tuple[Version, Version]:
    """Make an earlier champion champion again and return both as they are now: (champion, previous).

    The version that was rolled back is tagged, so that the next `dvc repro` does not promote it again.

    Args:
        to: a version that was champion before; None: `previous`.

    Raises:
        RegistryError: there is no champion, none before it, `to` never was champion, a file of it is gone or changed,
            or somebody else changes the champion at the same moment.
    """
    find(name, alias=CHAMPION)
    seen = read(name)
    if not seen.unfinished:  # else it is finished below, and may have been this very rollback
        _refuse_damaged(_rollback_target(seen, to))  # before the lock, which is not to be held over a download
    with ledger(name) as book:
        registered = book.read()
        if any(_is_rollback(move, registered, to) for move in book.finished or []):
            return find(name, alias=CHAMPION), find(name, alias=PREVIOUS)
        if not seen.unfinished:
            _refuse_another_champion(registered, seen.aliases[CHAMPION], again="look at `darkroom history` first")
        target, current = _rollback_target(registered, to), registered.aliases[CHAMPION]
        moves = _to_champion(registered, target.version, [f"rollback: {reason}"], [f"rolled back: {reason}"])
        book.move(moves, [Mark(current, ROLLED_BACK, reason), Mark(target.version, ROLLED_BACK, None)])
    return find(name, alias=CHAMPION), find(name, alias=PREVIOUS)


def settle(name: str) -> list[str]:
    """Finish what a process that died had begun, note moves without a record; return a sentence for each of them."""
    with ledger(name) as book:
        return book.settled


def store_card(version: Version, *, markdown: str, html: str, description: str) -> list[str]:
    """Keep a model card with the version and return where: files of its run, and the text that MLflow's UI shows.

    The files are not put beside the model: every file there was summed at registration.

    Args:
        description: short Markdown, at most 5000 characters; the rest is cut off.
    """
    opened, kept = client(), []
    with store_errors(tracking_uri()):
        if version.run_id and existing(lambda: opened.get_run(version.run_id)):
            folder = f"model_card/{version.name}-{version.version}"
            opened.log_text(version.run_id, markdown, f"{folder}/model_card.md")
            opened.log_text(version.run_id, html, f"{folder}/model_card.html")
            kept.append(f"runs:/{version.run_id}/{folder}")
        text = description[:DESCRIPTION_CHARACTERS]
        opened.update_model_version(version.name, version.version, description=text)
    return [*kept, f"models:/{version.name}/{version.version}"]


def _create(opened: "MlflowClient", name: str) -> None:
    """Create the registered name if there is none; before the lock, which may need it to be there."""
    from mlflow.exceptions import MlflowException

    with store_errors(registry_uri()):
        if existing(lambda: opened.get_registered_model(name)) is None:
            try:
                opened.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    raise


def _refuse_another_champion(
    registered: Registered, seen: str | None, *, again: str = "run `dvc repro promote` again"
) -> None:
    current = registered.aliases.get(CHAMPION)
    if current != seen:
        raise RegistryError(
            f"{registered.name}: the champion is version {current or 'none'} by now, the decision was taken against "
            f"{seen or 'none'}; {again}"
        )


def _refuse_rolled_back(registered: Registered, version: str) -> None:
    if reason := registered.versions[version].tags.get(ROLLED_BACK):
        raise RegistryError(
            f"{registered.name} version {version} was rolled back: {reason}; `darkroom rollback --to {version}` makes "
            "it champion all the same"
        )


def _is_rollback(move: Move, registered: Registered, to: str | None) -> bool:
    """Return whether a finished move is the rollback that is asked for, and stands."""
    is_one = move.alias == CHAMPION and move.reasons[0].startswith("rollback: ")
    return is_one and move.to == registered.aliases.get(CHAMPION) and to in (None, move.to)


def _refuse_damaged(version: Version) -> None:
    if found := damage(version):
        raise RegistryError(
            f"{version.name} version {version.version} cannot become champion: {'; '.join(found)}; restore its files"
        )


def _rollback_target(registered: Registered, to: str | None) -> Version:
    name, champion = registered.name, registered.aliases.get(CHAMPION)
    previous = registered.under(PREVIOUS)
    if to is None and previous is None:
        raise RegistryError(f"{name} has no alias {PREVIOUS!r}: nothing was champion before, nothing to go back to")
    target = registered.versions.get(to) if to is not None else previous
    earlier = dict.fromkeys(reign["version"] for reign in registered.reigns() if reign["version"] != champion)
    known = ", ".join(version for version in earlier if version in registered.versions) or "none"
    if target is None:
        raise RegistryError(f"{name} has no version {to}; earlier champions: {known}")
    if target.version == champion:
        raise RegistryError(f"{name}: version {champion} is champion already: nothing to go back to")
    if to is not None and to not in earlier:
        raise RegistryError(f"{name}: version {to} never was champion; earlier champions: {known}")
    return target


def _to_champion(
    registered: Registered, version: str, reasons: Sequence[str], reasons_of_previous: Sequence[str]
) -> list[Move]:
    """Return the moves that make a version champion; another challenger was compared with the old one, so it goes."""
    aliases, moves = registered.aliases, []
    champion, challenger = aliases.get(CHAMPION), aliases.get(CHALLENGER)
    if challenger not in (None, version):
        moves.append(Move(CHALLENGER, challenger, None, [f"version {version} becomes champion"]))
    if champion:
        moves.append(Move(PREVIOUS, aliases.get(PREVIOUS), champion, reasons_of_previous))
    return [*moves, Move(CHAMPION, champion, version, reasons)]
