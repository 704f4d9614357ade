"""Remove old downloads of a remote store, which a server that follows an alias would accumulate."""

import shutil
import time
from pathlib import Path

from darkroom.project.repository import repository_root
from darkroom.registry.snapshot import Version
from darkroom.registry.versions import local_folder

FRESH_SECONDS = 3600.0  # newer downloads may be about to be loaded by another process


def remove_others(current: Version, previous: Version) -> None:
    """Remove the downloads of this model's other versions; versions.fetch downloads them again if necessary.

    The previous version is kept for a rollback. Files of a local store are elsewhere and never touched.
    """
    if local_folder(current.location):
        return
    kept = {current.version, previous.version}
    for folder in (repository_root() / ".darkroom" / "models" / current.name).glob("*"):
        if folder.name not in kept and not folder.is_symlink() and _is_old(folder):
            shutil.rmtree(folder, ignore_errors=True)  # another server may do the same


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > FRESH_SECONDS
    except OSError:
        return False
