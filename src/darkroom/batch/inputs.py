"""The images of a directory, a tar, a zip, or a text with one path per line.

A directory or a text is listed while its images are classified, one directory at a time, so that neither the time to
the first answer nor the memory depends on their number. An archive is listed first, at about 300 bytes per image.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from darkroom.deployable.headers import UNREADABLE, read_header
from darkroom.errors import DataError, ParamsError
from darkroom.files.archives import Archive, Entry, open_archive
from darkroom.project.text import utf8

MAX_IMAGE_BYTES = 50_000_000  # larger files are not read, to bound the memory
CHUNK_BYTES = 32_000_000  # of one chunk of an archive, unpacked; chunks are sent to the workers
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Unread:
    """Stands for the content of an image that cannot be read."""

    reason: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive images.

    Attributes:
        number: of the chunk, from 0.
        names: as in the directory, archive or text, in UTF-8.
        contents: the bytes of each image, the path to read them from, or the reason why it cannot be read.
        fingerprint: sha256 over names, sizes and times of change.
    """

    number: int
    names: list[str]
    contents: list[bytes | str | Unread]
    fingerprint: str


IsDone = Callable[[int, str], bool]  # takes the number and the fingerprint of a chunk


class Inputs:
    """The result of `open_inputs`.

    Attributes:
        n: number of images; None until all are listed.
    """

    n: int | None = None

    def count(self, most: int) -> int:
        """Return the number of images, at most `most`, without listing more."""
        raise NotImplementedError

    def chunks(self, size: int, *, is_done: IsDone = lambda _number, _fingerprint: False) -> Iterator[Chunk]:
        """Yield all images in order, `size` at a time (fewer if they are large), except the chunks that are done.

        The same size always gives the same chunks.
        """
        raise NotImplementedError


class _Files(Inputs):
    """Files by their paths, listed lazily and only once. The worker that gets a chunk reads them."""

    def __init__(self, names: Iterator[str], folder: str) -> None:
        self._names, self._folder = names, folder

    def count(self, most: int) -> int:
        first = list(islice(self._names, most))
        self._names = chain(first, self._names)
        self.n = len(first) if len(first) < most else None
        return len(first)

    def chunks(self, size: int, *, is_done: IsDone = lambda _number, _fingerprint: False) -> Iterator[Chunk]:
        number = n = 0
        while names := list(islice(self._names, size)):
            paths = [_path(self._folder, name) for name in names]
            digest = hashlib.sha256()
            for name, path in zip(names, paths, strict=True):
                digest.update(os.fsencode(name) + b"\0" + _state(path))
            if not is_done(number, digest.hexdigest()):
                yield Chunk(number, [utf8(name) for name in names], list(paths), digest.hexdigest())
            number, n = number + 1, n + len(names)
        self.n = n


class _Members(Inputs):
    """Files of an archive, which this process reads, in the archive's order."""

    def __init__(self, archive: Archive, entries: list[Entry], *, state: bytes) -> None:
        self.n = len(entries)
        self._archive, self._entries, self._state = archive, entries, state

    def count(self, most: int) -> int:
        return min(most, len(self._entries))

    def chunks(self, size: int, *, is_done: IsDone = lambda _number, _fingerprint: False) -> Iterator[Chunk]:
        for number, entries in enumerate(_portions(self._entries, size)):
            names = [entry.name for entry in entries]
            fingerprint = hashlib.sha256(b"\0".join([self._state, *map(os.fsencode, names)])).hexdigest()
            if not is_done(number, fingerprint):
                yield Chunk(number, names, [self._content(entry) for entry in entries], fingerprint)

    def _content(self, entry: Entry) -> bytes | Unread:
        if entry.n_bytes > MAX_IMAGE_BYTES:
            return Unread(too_large(entry.n_bytes))
        try:
            return self._archive.read(entry)
        except DataError as error:  # a damaged member of a zip; the others can be read
            return Unread(str(error))


@contextmanager
def open_inputs(source: str, *, limit: int | None = None) -> Iterator[Inputs]:
    """Yield the images of a directory (recursively), a tar of any compression, a zip, or a list of paths.

    Files and directories whose names begin with a dot are left out of directories and archives. A linked directory is
    not followed; like any other file that is not an image, it counts as an image that cannot be read.

    Args:
        source: a path, or "-" for a list of paths on stdin. Paths of a list are relative to the current directory.
        limit: maximum number of images.

    Raises:
        ParamsError: the path does not exist, or is an image itself.
        DataError: the archive is damaged, or not safe to read.
    """
    path = Path(source)
    with ExitStack() as stack:
        if source != "-" and path.is_file() and _is_archive(path):
            archive = stack.enter_context(open_archive(path, max_archive_bytes=sys.maxsize))
            shown = (entry for entry in archive.entries if not entry.is_dir and not _is_hidden(entry.name))
            yield _Members(archive, list(islice(shown, limit)), state=_state(source))
            return
        folder = f"{Path.cwd()}/"
        if path.is_dir() and source != "-":
            folder = f"{path.absolute()}/"
            names = _below(folder, "")
        elif source == "-":
            names = _lines(sys.stdin.buffer)
        elif path.is_file():
            names = _lines(stack.enter_context(path.open("rb")))
        else:
            raise ParamsError(f"{source}: no such file or directory; expected images, or a list of their paths")
        yield _Files(islice(names, limit), folder)


def too_large(n_bytes: int) -> str:
    """Return the reason why a file of n_bytes is not read."""
    return f"{n_bytes:,} bytes exceed the limit of {MAX_IMAGE_BYTES:,} bytes per image"


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if b"\0" not in head:  # then it is a list of paths, or bzip2
        return head.startswith(b"BZh")
    try:
        read_header(head)
    except UNREADABLE:
        return True
    raise ParamsError(f"{path} is a single image; classify it with `darkroom predict {path}`")


def _path(folder: str, name: str) -> str:
    return name if name.startswith("/") else folder + name


def _below(folder: str, prefix: str) -> Iterator[str]:
    """Yield the names of everything below a directory, sorted; directories sort without a trailing slash."""
    try:
        with os.scandir(folder + prefix) as found:
            is_dir = {child.name: child.is_dir(follow_symlinks=False) for child in found}
    except OSError as error:
        raise DataError(f"cannot read {utf8(folder + prefix)}: {error.strerror}") from None
    for name in sorted(is_dir):
        if name.startswith("."):
            continue
        if is_dir[name]:
            yield from _below(folder, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}"


def _lines(stream: BinaryIO) -> Iterator[str]:
    for line in stream:
        if name := line.rstrip(b"\r\n").replace(b"\0", b""):
            yield os.fsdecode(name)


def _state(path: str) -> bytes:
    try:
        state = os.stat(path)  # noqa: PTH116 - a Path costs 5 us an image
    except (OSError, ValueError):
        return b"-"
    return b"%d %d" % (state.st_size, state.st_mtime_ns)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _portions(entries: list[Entry], size: int) -> Iterator[list[Entry]]:
    portion: list[Entry] = []
    n_bytes = 0
    for entry in entries:
        if portion and (len(portion) == size or n_bytes + entry.n_bytes > CHUNK_BYTES):
            yield portion
            portion, n_bytes = [], 0
        portion.append(entry)
        n_bytes += entry.n_bytes
    if portion:
        yield portion
