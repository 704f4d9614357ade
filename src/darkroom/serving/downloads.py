"""Old downloads of a remote store: a server that follows an alias for months would pile them up."""

import shutil
import time
from pathlib import Path

from darkroom.project.repository import repository_root
from darkroom.registry.snapshot import Version
from darkroom.registry.versions import local_folder

FRESH_SECONDS = 3600.0  # what was downloaded since may be about to be loaded by another process


def remove_others(current: Version, previous: Version) -> None:
    """Remove the downloads of this model's other versions, see versions.fetch, which downloads again what is asked for.

    The previous version stays for a rollback. Files of a local store are nowhere near, and are never touched.
    """
    if local_folder(current.location):
        return
    kept = {current.version, previous.version}
    for folder in (repository_root() / ".darkroom" / "models" / current.name).glob("*"):
        if folder.name not in kept and not folder.is_symlink() and _is_old(folder):
            shutil.rmtree(folder, ignore_errors=True)  # another server may be at it too


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > FRESH_SECONDS
    except OSError:
        return False
