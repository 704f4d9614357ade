"""The triggers of a retraining; each reports whether it fired, with its numbers and a sentence."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from darkroom.errors import DataError
from darkroom.files.writing import sha256_of
from darkroom.monitoring.accuracy import Accuracy
from darkroom.monitoring.acknowledgement import Acknowledgement
from darkroom.registry import aliases
from darkroom.registry.snapshot import Registered
from darkroom.registry.versions import lost_files

FETCH_AGAIN = frozenset({"drift", "recent_accuracy", "champion_age"})  # triggers whose cause DVC cannot see
ALARMS = frozenset({"forced", "drift", "recent_accuracy", "champion_age"})  # triggers that always cause a notification
ALWAYS = "always changed"  # in `dvc status`, for a stage that runs every time


@dataclass(frozen=True)
class Trigger:
    """The result of checking one reason to train: whether it fired, a sentence with the reason, and its numbers."""

    name: str
    fired: bool
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


def forced() -> Trigger:
    """Return the trigger of --force."""
    return Trigger("forced", True, "Requested with --force.")


def unfinished(state: Mapping[str, Any]) -> Trigger:
    """Return the trigger of a previous run that was killed or failed; its finished stages are in DVC's cache."""
    reason = f"The run started at {state['started']} by {state['who']} did not finish; this run continues it."
    return Trigger("unfinished", True, reason, {"started": state["started"], "fired": list(state.get("fired", []))})


def lost_champion(registered: Registered) -> list[Trigger]:
    """Return the trigger of a champion that is gone or lacks files, which promote repairs or refuses; else nothing."""
    champion = registered.under("champion")
    if sentence := aliases.lost_champion(registered):
        return [Trigger("lost_champion", True, sentence)]
    if champion and (lost := lost_files(champion)):
        reason = f"Files of the champion, version {champion.version}, are missing or changed: {', '.join(lost)}."
        return [Trigger("lost_champion", True, reason)]
    return []


def fired(looked: Sequence[Trigger]) -> frozenset[str]:
    """Return the names of the triggers that fired, including those of an unfinished run."""
    pulled = [trigger for trigger in looked if trigger.fired]
    return frozenset(trigger.name for trigger in pulled).union(*(one.numbers.get("fired", ()) for one in pulled))


def new_images(
    found: Mapping[str, str], known: Mapping[str, str], prepared_ids: frozenset[str], *, minimum: int
) -> Trigger:
    """Return whether the content of data/incoming differs from that of the last run.

    Args:
        found: sha256 of every image now there, by name (`<class>/...`).
        known: the same after the last run.
        prepared_ids: sha256 of every image of data/prepared, the only record of a `dvc repro` by hand.
        minimum: number of new or removed images for the trigger to fire.
    """
    new = [name for name, sha256 in found.items() if known.get(name) != sha256 and sha256 not in prepared_ids]
    gone = [name for name in known if name not in found]
    classes = dict(sorted(Counter(name.split("/", 1)[0] for name in new).items()))
    numbers = {"new": len(new), "gone": len(gone), "minimum": minimum, "new_per_class": classes}
    fired = len(new) + len(gone) >= minimum
    if not new and not gone:
        return Trigger("new_images", False, f"No new images among the {len(found)} in data/incoming.", numbers)
    listed = ", ".join(f"{name} {count}" for name, count in list(classes.items())[:10])
    what = f"{len(new)} new images in data/incoming" + (f" ({listed})" if listed else "")
    what += f", {len(gone)} gone" if gone else ""
    relation = "at least" if fired else "fewer than"
    return Trigger("new_images", fired, f"{what}: {relation} retrain.min_new_images ({minimum}).", numbers)


def changed_folders(found: Mapping[str, str], known: Mapping[str, str]) -> Trigger:
    """Return whether the files of download's sources of kind path changed since the last run.

    `dvc repro` notices that by `check`; `dvc status` does not. A source that no run has seen yet has not changed.

    Args:
        found: fingerprints by path.
        known: the same after the last run.
    """
    changed = sorted(path for path, mark in found.items() if known.get(path, mark) != mark)
    if changed:
        return Trigger("changed_source", True, f"Changed since the last run: {', '.join(changed)}.", {"paths": changed})
    return Trigger("changed_source", False, f"{len(found)} external sources, none changed.")


def changed_stages(status: Mapping[str, Sequence[Any]], *, tried: bool = False) -> Trigger:
    """Return whether `dvc status --json` names a stage that has changed.

    A changed data/incoming alone does not count, because `new_images` decides by retrain.min_new_images.

    Args:
        tried: whether an experiment that was not applied has already trained this state, so that dvc.lock is older.
    """
    changed = _changed(status)
    numbers = {"stages": changed}
    if not changed:
        return Trigger("changed_stage", False, "Code, params and data match dvc.lock.", numbers)
    if tried:
        reason = f"dvc.lock is out of date ({', '.join(changed)}), but an experiment has already run these changes."
        return Trigger("changed_stage", False, reason, numbers)
    first = "; ".join(f"{stage}: {', '.join(causes[:3])}" for stage, causes in list(changed.items())[:3])
    more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
    return Trigger("changed_stage", True, f"dvc.lock is out of date: {first}{more}.", numbers)


def champion_age(promoted: datetime | None, trained: datetime | None, *, now: datetime, limit: float | None) -> Trigger:
    """Return whether there was neither a promotion nor a training for `limit` days; None: never.

    Trainings count even without a promotion, because the same data would give the same candidate every night.
    """
    last = max((moment for moment in (promoted, trained) if moment), default=None)
    if limit is None or last is None:
        reason = "No age limit is set." if limit is None else "Nothing has been trained or promoted yet."
        return Trigger("champion_age", limit is not None, reason)
    days = (now - last).total_seconds() / 86400
    fired = days >= limit
    relation = "at least" if fired else "less than"
    reason = f"{days:.1f} days since the last promotion or training: {relation} max_champion_age_days ({limit:g})."
    return Trigger("champion_age", fired, reason, {"days": round(days, 2), "limit": limit})


def no_log(folder: str | None) -> Trigger:
    """Return the trigger drift without a log of predictions: none is set, or nothing was logged yet."""
    if folder is None:
        return Trigger("drift", False, "No prediction log is set (retrain.drift_log).")
    return Trigger("drift", False, f"The prediction log {folder} (retrain.drift_log) does not exist yet.")


def drift(report: Mapping[str, Any]) -> Trigger:
    """Return whether a report of drift (drift.Report.as_dict) found any."""
    alarms = [check["name"] for check in report["checks"] if check["drifted"]]
    numbers = {"drifted": report["drifted"], "n_window": report["n_window"], "n_reference": report["n_reference"]}
    numbers["alarms"] = alarms
    sentence = " ".join(report["reasons"][:3]) or f"{report['n_window']} predictions, no drift."
    return Trigger("drift", bool(report["drifted"]), sentence, numbers)


def recent_accuracy(found: Accuracy | None, *, minimum: float | None, n_least: int) -> Trigger:
    """Return whether the champion's recent accuracy is too low.

    Args:
        found: of the champion in the last days; None: none of its images has a true label.
        minimum: accuracy below which it fires; None: off.
        n_least: minimum number of labelled images for a decision.
    """
    if minimum is None:
        return Trigger("recent_accuracy", False, "No least accuracy is set (retrain.min_recent_accuracy).")
    n_labelled = found.n_labelled if found else 0
    if found is None or n_labelled < n_least:
        reason = f"{n_labelled} labelled images of the champion: fewer than retrain.min_labelled_images ({n_least})."
        return Trigger("recent_accuracy", False, reason, {"n_labelled": n_labelled, "minimum": minimum})
    fired = found.accuracy < minimum
    low, high = found.ci95
    reason = (
        f"The champion was right on {found.n_correct} of {n_labelled} labelled images, {found.accuracy:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}): {'less than' if fired else 'at least'} retrain.min_recent_accuracy "
        f"({minimum:.1%})."
    )
    numbers = {**asdict(found), "minimum": minimum, "alarms": ["recent_accuracy"]}
    return Trigger("recent_accuracy", fired, reason, numbers)


def acknowledged(
    trigger: Trigger, known: Acknowledgement | None, *, champion: str | None, data: str | None, now: datetime
) -> Trigger:
    """Return the alarm, not fired if it was acknowledged.

    Args:
        trigger: drift or recent_accuracy.
        champion: its version.
        data: digest of data/prepared.
    """
    if not trigger.fired or known is None:
        return trigger
    if lapsed := known.lapsed(trigger.numbers["alarms"], version=champion, data=data, now=now):
        return replace(trigger, reason=f"{trigger.reason} It was {known}, but that no longer holds: {lapsed}.")
    return replace(trigger, fired=False, reason=f"{trigger.reason} It is {known}")


def behind(status: Mapping[str, Sequence[Any]], root: Path) -> str:
    """Return a digest of the differences between the work tree at `root` and dvc.lock.

    `dvc status` names modified settings but not their values, so params.yaml, dvc.yaml and dvc.lock count as a whole.
    """
    paths = {"dvc.lock", "dvc.yaml", "params.yaml"}
    for stage, said in status.items():
        if not stage.startswith("data/incoming/"):
            groups = [group for one in said if isinstance(one, Mapping) for group in one.values()]
            paths.update(name for group in groups if isinstance(group, Mapping) for name in group)
    digest = hashlib.sha256(json.dumps(_changed(status), sort_keys=True).encode())
    for name in sorted(paths - {"data/incoming"}):
        path = root / name
        digest.update(f"\n{name} {sha256_of(path) if path.is_file() else _times(path)}".encode())
    return digest.hexdigest()


def incoming_images(folder: Path, *, max_image_bytes: int) -> dict[str, str]:
    """Return the sha256 of every image in data/incoming, by name.

    Raises:
        DataError: `preprocess` would refuse the directory: a stray file, or classes that differ only in case.
    """
    from darkroom.data.raw.layouts import Unread, read_folder

    found = {}
    for image in read_folder(folder, max_image_bytes=max_image_bytes) if folder.is_dir() else ():
        # An unread image is identified by the reason, for example its size; `preprocess` rejects it anyway.
        content = image.data.reason.encode() if isinstance(image.data, Unread) else image.data
        found[image.name] = hashlib.sha256(bytes(content)).hexdigest()
    return found


def prepared_ids(prepared: Path) -> frozenset[str]:
    """Return the sha256 of every image of data/prepared; none if nothing is prepared."""
    import pyarrow.parquet as pq

    try:
        return frozenset(pq.read_table(prepared / "index.parquet", columns=["id"]).column("id").to_pylist())
    except (OSError, ValueError, KeyError):  # missing or damaged, so every image counts as new
        return frozenset()


def parse_status(text: str) -> dict[str, list[Any]]:
    """Return the output of `dvc status --json`; warnings may precede it.

    Raises:
        DataError: there is no JSON in it.
    """
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        raise DataError(f"`dvc status --json` answered {text[:200]!r}; run it by hand") from None


def _times(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of all files below a path."""
    files = [(file.relative_to(path).as_posix(), file.stat()) for file in sorted(path.rglob("*")) if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]


def _changed(status: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Return the causes by stage, for stages that have changed."""
    return {
        stage: causes
        for stage, said in status.items()
        if (causes := [cause for cause in map(_cause, said) if cause]) and not stage.startswith("data/incoming/")
    }


def _cause(said: Any) -> str | None:
    """Return one entry of a stage's status in words, None if it is not a reason to train."""
    if said == ALWAYS:
        return None
    if not isinstance(said, Mapping):
        return str(said)
    parts = []
    for kind, entries in said.items():
        if isinstance(entries, Mapping):
            named = [_flat(name, how) for name, how in entries.items() if name != "data/incoming"]
            parts += [name for name in named if name]
        else:
            parts.append(f"{kind} {entries}")
    return ", ".join(parts) or None


def _flat(name: str, how: Any) -> str:
    if isinstance(how, Mapping):  # {"params.yaml": {"train.cnn.epochs": "modified"}}
        return ", ".join(f"{key} {said}" for key, said in how.items())
    return f"{name} {how}"
