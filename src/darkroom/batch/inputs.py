"""The images that a command is given, whatever holds them: a directory, a tar, a zip, or a text with one path per line.

They are listed once, at the start, and read later: what is added meanwhile is not seen. The list of a directory or text
lies in a temporary file, so that memory does not grow with it; that of an archive takes about 300 bytes per image.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from darkroom.deployable.headers import UNREADABLE, read_header
from darkroom.errors import DataError, ParamsError
from darkroom.files.archives import Archive, Entry, open_archive
from darkroom.project.text import utf8

MAX_IMAGE_BYTES = 50_000_000  # a file with more is not read, so that one of them does not fill the memory
CHUNK_BYTES = 32_000_000  # of one chunk of an archive, unpacked: these travel to the workers
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Unread:
    """Stands for the content of an image that cannot be had."""

    reason: str


@dataclass(frozen=True)
class Chunk:
    """Some images in a row.

    Attributes:
        number: of the chunk, from 0.
        names: as the directory, archive or text says them, in UTF-8.
        contents: of each, the bytes, or the path where to read them, or why there is nothing to read.
    """

    number: int
    names: list[str]
    contents: list[bytes | str | Unread]


class Inputs:
    """The result of `open_inputs`. The number of images and their fingerprint are known before any is read.

    Attributes:
        n: images.
        fingerprint: sha256 over names, sizes and times of change.
    """

    def __init__(self, n: int, fingerprint: str) -> None:
        self.n, self.fingerprint = n, fingerprint

    def chunks(self, size: int, *, done: frozenset[int] = frozenset()) -> Iterator[Chunk]:
        """Yield all images in their order, `size` at a time (fewer where they are large), but the chunks that are done.

        A chunk has the same images whenever it is asked for with the same size.
        """
        raise NotImplementedError


class _Files(Inputs):
    """Files by their paths, kept in a temporary file. Whoever takes a chunk reads them."""

    def __init__(self, n: int, fingerprint: str, names: BinaryIO, folder: str) -> None:
        super().__init__(n, fingerprint)
        self._names, self._folder = names, folder

    def chunks(self, size: int, *, done: frozenset[int] = frozenset()) -> Iterator[Chunk]:
        self._names.seek(0)
        names = (os.fsdecode(name) for name in _split(iter(lambda: self._names.read(1 << 16), b""), b"\0"))
        number = 0
        while taken := list(islice(names, size)):
            if number not in done:
                paths = [_path(self._folder, name) for name in taken]
                yield Chunk(number, [utf8(name) for name in taken], list(paths))
            number += 1


class _Members(Inputs):
    """Files of an archive, which is read here: from one place, in its own order."""

    def __init__(self, n: int, fingerprint: str, archive: Archive, entries: list[Entry]) -> None:
        super().__init__(n, fingerprint)
        self._archive, self._entries = archive, entries

    def chunks(self, size: int, *, done: frozenset[int] = frozenset()) -> Iterator[Chunk]:
        for number, entries in enumerate(_portions(self._entries, size)):
            if number not in done:
                yield Chunk(number, [entry.name for entry in entries], [self._content(entry) for entry in entries])

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

    Names of files or directories that begin with a dot are left out of directories and archives. A linked directory is
    not followed; it counts as an image that cannot be read, as everything does that is there and no image.

    Args:
        source: a path; or "-": the list of paths comes from stdin. Paths of a list start from the current folder.
        limit: take only the first so many.

    Raises:
        ParamsError: there is nothing of that name, or it is an image itself.
        DataError: the archive is damaged, or not safe to read.
    """
    path = Path(source)
    with ExitStack() as stack:
        if source != "-" and path.is_file() and _is_archive(path):
            archive = stack.enter_context(open_archive(path, max_archive_bytes=sys.maxsize))
            shown = (entry for entry in archive.entries if not entry.is_dir and not _is_hidden(entry.name))
            entries = list(islice(shown, limit))
            changed = path.stat()
            digest = hashlib.sha256(f"{changed.st_size} {changed.st_mtime_ns} {len(entries)}".encode())
            yield _Members(len(entries), digest.hexdigest(), archive, entries)
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
        spool = stack.enter_context(tempfile.TemporaryFile())
        n, digest = 0, hashlib.sha256()
        for n, name in enumerate(islice(names, limit), 1):  # noqa: B007 - the last one counts
            record = os.fsencode(name) + b"\0"
            spool.write(record)
            digest.update(record + _state(_path(folder, name)))
        yield _Files(n, digest.hexdigest(), spool, folder)


def too_large(n_bytes: int) -> str:
    """Return why a file of so many bytes is not read."""
    return f"{n_bytes:,} bytes exceed the limit of {MAX_IMAGE_BYTES:,} bytes per image"


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if b"\0" not in head:  # so it is a list of paths, whatever these begin with; only bzip2 can do without, too
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
            children = sorted((child.name, child.is_dir(follow_symlinks=False)) for child in found)
    except OSError as error:
        raise DataError(f"cannot read {utf8(folder + prefix)}: {error.strerror}") from None
    for name, is_dir in children:
        if name.startswith("."):
            continue
        if is_dir:
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


def _split(blocks: Iterable[bytes], separator: bytes) -> Iterator[bytes]:
    """Yield what the separators end."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(separator)
        yield from whole


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
