"""Files that a merge left with conflict markers."""

from pathlib import Path

from darkroom.errors import DataError

REMEDIES = {
    "dvc.lock": "take either side with `git checkout --ours dvc.lock` or `--theirs`, `git add dvc.lock`, finish the "
    "merge, and run `dvc repro`, which takes from DVC's cache what was computed before"
}


def has_conflicts(path: Path) -> bool:
    """Return whether the file holds the markers that git writes into a file that it could not merge."""
    return path.is_file() and any(line.startswith(b"<<<<<<<") for line in path.read_bytes().splitlines())


def refuse_conflicts(path: Path) -> None:
    """Refuse a file that a merge left in conflict.

    Raises:
        DataError: it holds conflict markers.
    """
    if has_conflicts(path):
        remedy = REMEDIES.get(path.name, "resolve them by hand, `git add` the file and finish the merge")
        raise DataError(f"{path.name} has conflicts of an unfinished merge; {remedy}")
