"""Find and delete files in DVC's cache that no commit, experiment or work tree uses."""

import re
from pathlib import Path
from typing import NamedTuple

from darkroom.errors import DataError
from darkroom.operations.preflight import check_merges
from darkroom.operations.undo import WorkInProgress
from darkroom.operations.workspace import Workspace


class UnusedData(NamedTuple):
    """Files in DVC's cache that no commit, experiment or work tree uses."""

    n_files: int
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.n_files:,} files, {self.n_bytes / 1e6:,.1f} MB that no commit, experiment or work tree uses"


def unused_data(root: Path, *, remove: bool) -> UnusedData:
    """Return the files in DVC's cache that nothing uses (`dvc gc --all-commits --all-experiments`).

    The data of versions that were trained from a commit are kept; of those trained from uncommitted data (git.dirty)
    only the model is.

    Args:
        remove: whether to delete them.

    Raises:
        DataError: a retraining is unfinished, so that it needs the cache; or dvc.lock has merge conflicts; or a file to
            delete is outside the repository, in a cache that others may share.
        TrainingError: DVC refuses.
    """
    if state := WorkInProgress(root).state():
        raise DataError(
            f"the retraining started at {state['started']} is unfinished and needs DVC's cache; run `darkroom retrain` "
            "first"
        )
    if not (root / ".dvc").is_dir():
        return UnusedData(0, 0)
    check_merges(root)
    tree = Workspace(root, log=root / ".darkroom" / "gc.log")
    # Without git there are no commits; the repository may be below the top of git's.
    in_git = any((folder / ".git").exists() for folder in (root, *root.resolve().parents))
    command = ["gc", *(["--all-commits", "--all-experiments"] if in_git else ["--workspace"]), "--force"]
    said = tree.dvc(*command, "--dry", echo=False).printed
    files = [Path(path) for path in re.findall(r"^Removing (.+)$", said, re.MULTILINE)]
    if outside := next((file for file in files if not file.resolve().is_relative_to(root.resolve())), None):
        raise DataError(
            f"DVC's cache has {outside}, outside of {root}: other repositories may need it; use `dvc gc --projects`"
        )
    found = UnusedData(len(files), sum(file.lstat().st_size for file in files))
    if remove and files:
        tree.dvc(*command, echo=False)
    return found
