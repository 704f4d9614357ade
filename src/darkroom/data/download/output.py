"""The output directory of download: what it may delete, and files that are not complete yet."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darkroom.errors import DataError
from darkroom.files.array_folder import MANIFEST
from darkroom.project.text import shown

PARTIAL = ".partial"  # the inner directory of unfinished files


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """Yield an empty directory inside `out` for incomplete files; it exists as long as `out` is incomplete.

    Only files of `out` that a manifest of ours lists are deleted. The manifest is in the inner directory while its
    files are written or deleted, so that they are still known after an interruption.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; expected a directory to write to")
    partial_out = out / PARTIAL
    whole, half = _listed(out / MANIFEST), _listed(partial_out / MANIFEST)
    ours = {PARTIAL, *(whole or ()), *(half or ()), *([MANIFEST] if whole is not None else [])}
    tops = {name.split("/")[0] for name in ours}
    others = sorted(path.name for path in out.iterdir() if path.name not in tops) if out.is_dir() else []
    if others:
        raise DataError(
            f"{out} holds {shown(others[0])}, which download did not write; empty it or choose another directory"
        )
    partial_out.mkdir(parents=True, exist_ok=True)
    if whole is not None:
        (out / MANIFEST).replace(partial_out / MANIFEST)
    for name in ours - {PARTIAL, MANIFEST}:
        (out / name).unlink(missing_ok=True)
        if (out / name).parent != out:
            with suppress(OSError):  # a directory of a union that has other files, or is gone already
                (out / name).parent.rmdir()
    clear(partial_out)
    yield partial_out
    shutil.rmtree(partial_out)


def _listed(manifest: Path) -> list[str] | None:
    """Return the names of the files that a manifest of ours lists; None if it is not ours."""
    try:
        values = json.loads(manifest.read_text(encoding="utf-8"))
        names = [str(file["name"]) for file in values["files"]]
        plain = all(
            len(parts := Path(name).parts) <= 2 and "/".join(parts) == name and ".." not in parts for name in names
        )
        ours = values.keys() >= {"dataset", "layout", "source"} and plain
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return names if ours else None


def clear(directory: Path) -> None:
    """Delete everything in a directory."""
    shutil.rmtree(directory)
    directory.mkdir()
