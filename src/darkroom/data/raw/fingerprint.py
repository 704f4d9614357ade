"""A digest of the names and contents of a source's files; unchanged files are not read again."""

import hashlib
import json
from pathlib import Path

from darkroom.data.raw.listing import unreadable, walk
from darkroom.errors import DataError
from darkroom.files.writing import sha256_of, write_text

SOURCES = ".darkroom/sources"  # of the repository: the memory that `check` and retraining share


def fingerprint(path: Path, *, memory: Path) -> str | None:
    """Return a digest of a dataset's file or directory, None if it does not exist.

    It depends only on names and contents, so it is the same on every machine. A file whose size and time are unchanged
    is not read again.

    Args:
        path: read as by `download`: hidden files and litter are left out, links are followed.
        memory: a directory for the digests of files, one file per path.
    """
    if not path.exists():
        return None
    remembered = memory / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}.json"
    known = _remembered(remembered)
    found: dict[str, list[int | str]] = {}
    try:
        files = [(name, file) for name, file, is_dir in walk(path) if not is_dir] if path.is_dir() else [("", path)]
        for name, file in files:
            if reason := unreadable(file):
                found[name] = [-1, -1, reason]
                continue
            stat = file.stat()
            seen = [stat.st_size, stat.st_mtime_ns]
            before = known.get(name, [])
            found[name] = before if before[:2] == seen else [*seen, sha256_of(file)]
    except (DataError, OSError) as error:  # `download` reports it, if it uses this source
        return f"unreadable: {error}"
    if found != known:
        write_text(remembered, json.dumps(found))
    return hashlib.sha256(json.dumps([[name, found[name][2]] for name in sorted(found)]).encode()).hexdigest()


def _remembered(file: Path) -> dict[str, list[int | str]]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
