"""The triggers of a retraining: each reports whether it fired, with its numbers and a sentence."""

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

FETCH_AGAIN = frozenset({"drift", "recent_accuracy", "champion_age"})  # triggers that DVC cannot see the cause of
ALARMS = frozenset({"forced", "drift", "recent_accuracy", "champion_age"})  # triggers of which somebody waits to hear
ALWAYS = "always changed"  # what `dvc status` says of a stage that runs whatever happens


@dataclass(frozen=True)
class Trigger:
    """One reason to train, looked at: whether it fired, the sentence that says why or why not, and its numbers."""

    name: str
    fired: bool
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


def forced() -> Trigger:
    """Return the trigger that a person pulled."""
    return Trigger("forced", True, "Requested with --force.")


def unfinished(state: Mapping[str, Any]) -> Trigger:
    """Return the trigger of a run before this one that was killed or failed; what it finished is in DVC's cache."""
    reason = f"The run started at {state['started']} by {state['who']} did not finish; this run continues it."
    return Trigger("unfinished", True, reason, {"started": state["started"], "fired": list(state.get("fired", []))})


def lost_champion(registered: Registered) -> list[Trigger]:
    """Return the trigger of a champion that is gone or lacks files, which promote mends or refuses; else nothing."""
    champion = registered.under("champion")
    if sentence := aliases.lost_champion(registered):
        return [Trigger("lost_champion", True, sentence)]
    if champion and (lost := lost_files(champion)):
        reason = f"Files of the champion, version {champion.version}, are missing or changed: {', '.join(lost)}."
        return [Trigger("lost_champion", True, reason)]
    return []


def fired(looked: Sequence[Trigger]) -> frozenset[str]:
    """Return the names of the triggers that fired, with those of an unfinished run: what called for that one does so
    still."""
    pulled = [trigger for trigger in looked if trigger.fired]
    return frozenset(trigger.name for trigger in pulled).union(*(one.numbers.get("fired", ()) for one in pulled))


def new_images(
    found: Mapping[str, str], known: Mapping[str, str], prepared_ids: frozenset[str], *, minimum: int
) -> Trigger:
    """Return whether the directory of new images differs from what the last run knew, by content.

    Args:
        found: name (`<class>/...`) -> sha256 of the bytes, of every image that lies there now.
        known: the same as the last run left it.
        prepared_ids: sha256 of the bytes of every image of data/prepared: `dvc repro` by hand leaves no other record.
        minimum: of images that are new or gone, for the trigger to fire.
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

    `dvc repro` notices it, since `check` looks at them; `dvc status` does not. One that no run has seen yet is taken as
    it is.

    Args:
        found: path -> its fingerprint.
        known: the same as the last run left it.
    """
    changed = sorted(path for path, mark in found.items() if known.get(path, mark) != mark)
    if changed:
        return Trigger("changed_source", True, f"Changed since the last run: {', '.join(changed)}.", {"paths": changed})
    return Trigger("changed_source", False, f"{len(found)} external sources, none changed.")


def changed_stages(status: Mapping[str, Sequence[Any]], *, tried: bool = False) -> Trigger:
    """Return whether the answer of `dvc status --json` names a stage that would run for a reason.

    Fewer new images than retrain.min_new_images must not start a run by this door: a changed data/incoming alone is
    left to `new_images`.

    Args:
        tried: this very state was trained as an experiment, which was not applied: dvc.lock stays behind.
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
    """Return whether neither a promotion nor a training happened for `limit` days; None: never.

    A retraining that kept the champion counts: the same data would give the same candidate every night.
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
    """Return that there is no log of predictions to look for drift in: none is set, or nothing was logged yet."""
    if folder is None:
        return Trigger("drift", False, "No prediction log is set (retrain.drift_log).")
    return Trigger("drift", False, f"The prediction log {folder} (retrain.drift_log) does not exist yet.")


def drift(report: Mapping[str, Any]) -> Trigger:
    """Return whether a report of drift (drift.Report.as_dict) says that there is some."""
    alarms = [check["name"] for check in report["checks"] if check["drifted"]]
    numbers = {"drifted": report["drifted"], "n_window": report["n_window"], "n_reference": report["n_reference"]}
    numbers["alarms"] = alarms
    sentence = " ".join(report["reasons"][:3]) or f"{report['n_window']} predictions, no drift."
    return Trigger("drift", bool(report["drifted"]), sentence, numbers)


def recent_accuracy(found: Accuracy | None, *, minimum: float | None, n_least: int) -> Trigger:
    """Return whether what the champion answered lately was right too rarely.

    Args:
        found: of the champion in the last days; None: none of its images has a true label.
        minimum: accuracy below which it fires; None: off.
        n_least: labelled images from which on anything is decided.
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
    """Return an alarm as it is, or as one that calls for nothing because somebody knows of it.

    Args:
        trigger: drift or recent_accuracy.
        champion: version.
        data: digest of data/prepared.
    """
    if not trigger.fired or known is None:
        return trigger
    if lapsed := known.lapsed(trigger.numbers["alarms"], version=champion, data=data, now=now):
        return replace(trigger, reason=f"{trigger.reason} It was {known}, but that no longer holds: {lapsed}.")
    return replace(trigger, fired=False, reason=f"{trigger.reason} It is {known}")


def behind(status: Mapping[str, Sequence[Any]], root: Path) -> str:
    """Return a digest of what the work tree at `root` holds beside dvc.lock: the stages that changed, and by what.

    `dvc status` says that a setting is modified, not to what: params.yaml, dvc.yaml and dvc.lock count as a whole.
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
    """Return name -> sha256 of the bytes of every image in the directory of new images.

    Raises:
        DataError: what `preprocess` would refuse: a stray file, classes that differ by case alone.
    """
    from darkroom.data.raw.layouts import Unread, read_folder

    found = {}
    for image in read_folder(folder, max_image_bytes=max_image_bytes) if folder.is_dir() else ():
        # One that was not read is told by the reason, its size for example: `preprocess` rejects it anyway.
        content = image.data.reason.encode() if isinstance(image.data, Unread) else image.data
        found[image.name] = hashlib.sha256(bytes(content)).hexdigest()
    return found


def prepared_ids(prepared: Path) -> frozenset[str]:
    """Return the sha256 of the bytes of every image of data/prepared; none where nothing is prepared."""
    import pyarrow.parquet as pq

    try:
        return frozenset(pq.read_table(prepared / "index.parquet", columns=["id"]).column("id").to_pylist())
    except (OSError, ValueError, KeyError):  # absent or damaged: then every image counts as new
        return frozenset()


def parse_status(text: str) -> dict[str, list[Any]]:
    """Return what `dvc status --json` printed; warnings may stand before its line.

    Raises:
        DataError: the line does not exist.
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
    """Return stage -> why it would run, of those that would for a reason."""
    return {
        stage: causes
        for stage, said in status.items()
        if (causes := [cause for cause in map(_cause, said) if cause]) and not stage.startswith("data/incoming/")
    }


def _cause(said: Any) -> str | None:
    """Return one entry of a stage's status in words, None for one that is not a reason to train."""
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
