"""List the files of a directory or an archive before any image is read."""

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from darkroom.data.raw.names import is_litter
from darkroom.errors import DataError
from darkroom.files.archives import Archive
from darkroom.project.text import escaped, shown, utf8

NAMED = 3  # maximum number of names in an error


@dataclass(frozen=True)
class Listing:
    """The files and directories of a dataset, identified by their positions in `names`.

    Attributes:
        where: the dataset's name in errors.
        names: (path with "/" between its parts, whether it is a directory).
        n_bytes, read, open: return the size of a file, its content, or a seekable stream of it.
        unread: returns why a file cannot be read, None if it can.
    """

    where: Path
    names: Sequence[tuple[str, bool]]
    n_bytes: Callable[[int], int]
    read: Callable[[int], bytes]
    open: Callable[[int], IO[bytes]]
    unread: Callable[[int], str | None] = lambda _: None


def listing_of_archive(archive: Archive) -> Listing:
    """Return the listing of an archive."""
    entries = archive.entries
    return Listing(
        archive.path,
        [(entry.name, entry.is_dir) for entry in entries],
        lambda number: entries[number].n_bytes,
        lambda number: archive.read(entries[number]),
        lambda number: archive.open(entries[number]),
    )


def listing_of_files(where: Path, found: Sequence[tuple[str, Path, bool]]) -> Listing:
    """Return the listing of files and directories as walk() yields them: (name, path, whether it is a directory).

    Accessing an unreadable file raises a DataError.
    """

    def readable(number: int) -> Path:
        name, path, _ = found[number]
        if reason := unreadable(path):
            raise DataError(f"{where}: cannot read {shown(name)}: {reason}")
        return path

    return Listing(
        where,
        [(name, is_dir) for name, _, is_dir in found],
        lambda number: readable(number).stat().st_size,
        lambda number: readable(number).read_bytes(),
        lambda number: readable(number).open("rb"),
        lambda number: unreadable(found[number][1]),
    )


def walk(directory: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield (name with "/", path, is it a directory) for everything below except hidden files and litter, sorted.

    Links are followed. Everything else, including broken links, counts as a file; see unreadable().

    Raises:
        DataError: at the end: some directories cannot be listed, or contain themselves through a link.
    """
    failed: list[str] = []
    yield from _walk(directory, "", (), failed)
    if failed:
        more = f" (and {len(failed) - NAMED} more)" if len(failed) > NAMED else ""
        raise DataError(f"{directory}: {'; '.join(failed[:NAMED])}{more}")


def _walk(
    directory: Path, prefix: str, above: tuple[tuple[int, int], ...], failed: list[str]
) -> Iterator[tuple[str, Path, bool]]:
    try:
        here = directory.stat()
        children = sorted(child.name for child in directory.iterdir())
    except OSError as error:
        failed.append(f"cannot read {shown(prefix or '.')}: {error.strerror}")
        return
    if (here.st_dev, here.st_ino) in above:
        failed.append(f"{shown(prefix)} is a link to one of its own parent directories; remove the link")
        return
    for child in children:
        if is_litter(child):
            continue
        path, name = directory / child, f"{prefix}{utf8(child)}"
        if _is_directory(path):
            yield name, path, True
            yield from _walk(path, f"{name}/", (*above, (here.st_dev, here.st_ino)), failed)
        else:
            yield name, path, False


def unreadable(path: Path) -> str | None:
    """Return why a file cannot be read, None if it can; does not block on a named pipe."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
        with path.open("rb"):
            return None
    except OSError as error:
        broken = isinstance(error, FileNotFoundError) and path.is_symlink()
        return f"a broken link to {escaped(str(path.readlink()))}" if broken else str(error.strerror)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False
