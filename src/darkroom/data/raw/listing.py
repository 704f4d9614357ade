"""List what a directory or an archive holds, before any image of it is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from darkroom.files.archives import Archive


@dataclass(frozen=True)
class Listing:
    """The files and directories of a dataset; they are known by their positions in `names`.

    Attributes:
        where: what to call the dataset in an error.
        names: (path with "/" between its parts, whether it is a directory).
        n_bytes, read, open: return the size of a file, its content, or a stream of it that can seek.
    """

    where: Path
    names: Sequence[tuple[str, bool]]
    n_bytes: Callable[[int], int]
    read: Callable[[int], bytes]
    open: Callable[[int], IO[bytes]]


def listing_of_archive(archive: Archive) -> Listing:
    """Return what an archive holds."""
    entries = archive.entries
    return Listing(
        archive.path,
        [(entry.name, entry.is_dir) for entry in entries],
        lambda number: entries[number].n_bytes,
        lambda number: archive.read(entries[number]),
        lambda number: archive.open(entries[number]),
    )


def listing_of_files(where: Path, found: Sequence[tuple[str, Path, bool]]) -> Listing:
    """Return files and directories (name, path, whether it is a directory) as walk() yields them."""
    return Listing(
        where,
        [(name, is_dir) for name, _, is_dir in found],
        lambda number: found[number][1].stat().st_size,
        lambda number: found[number][1].read_bytes(),
        lambda number: found[number][1].open("rb"),
    )
