"""Read tar and zip archives member by member, without unpacking them to disk and without trusting their headers."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, cast

from darkroom.errors import DataError
from darkroom.files.member_names import safe_name, zip_name
from darkroom.project.text import escaped, shown

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 20
LONGEST_HEADER = 1 << 20  # bytes; tarfile reads a long name or pax header in one piece, whatever its stated length
MOST_MEMBERS = 10_000_000  # at about 300 bytes of memory each
_WINDOWS = (0, 10, 14)  # the create_system of a zip member: FAT, NTFS, VFAT
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


class Entry(NamedTuple):
    """One member: its path with "/" between the parts, its unpacked size, and the position of its content."""

    name: str
    n_bytes: int
    is_dir: bool
    position: int


class Readable(Protocol):
    """A file whose `read(n)` returns n bytes, fewer only at the end."""

    def read(self, n: int, /) -> bytes: ...


class Archive(Protocol):
    """An opened archive whose member names and sizes have been checked. Reading in order of `position` is fastest."""

    path: Path
    entries: list[Entry]

    def open(self, entry: Entry) -> IO[bytes]: ...

    def read(self, entry: Entry) -> bytes: ...


@contextmanager
def open_archive(path: Path, *, max_archive_bytes: int) -> Iterator[Archive]:
    """Yield a zip, tar, tar.gz, tar.xz or tar.bz2 as an Archive; the type is detected by content, not by name.

    Raises:
        DataError: not an archive, truncated, damaged or encrypted; a member is a link or a device, or its path is
            absolute, longer than 4,096 bytes or contains ".."; two members have one name; more than ten million
            members, or more than max_archive_bytes unpacked.
    """
    kind = _kind(path)
    if kind is None:
        size = path.stat().st_size
        raise DataError(f"{path}: {size} bytes are not a zip or tar archive; download it again, or correct its layout")
    with ExitStack() as stack:
        archive: Archive
        with broken_as_data_error(path):
            if kind == "zip":
                zipped = stack.enter_context(zipfile.ZipFile(path))
                archive = ZipArchive(path, zipped, max_archive_bytes=max_archive_bytes)
            else:
                stream = stack.enter_context(_unpacked(path, kind))
                archive = TarArchive(path, stream, max_archive_bytes=max_archive_bytes)
        yield archive


@contextmanager
def broken_as_data_error(path: Path) -> Iterator[None]:
    """Turn the standard library's exceptions for truncated and damaged files into a DataError that names the file."""
    try:
        yield
    except EOFError:
        raise DataError(f"{path} is truncated; download it again") from None
    except zipfile.BadZipFile as error:
        # The list of members is at the end of a zip: a file that starts like one but has no list was truncated.
        cut = "is not a zip file" in str(error)
        raise DataError(f"{path} is {'truncated' if cut else f'damaged ({error})'}; download it again") from None
    except (tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        cut = "unexpected end of data" in str(error)
        raise DataError(f"{path} is {'truncated' if cut else f'damaged ({error})'}; download it again") from None
    except UnicodeDecodeError as error:  # zipfile: marked as UTF-8
        raise DataError(f"{path}: the name {error.object!r} of a member is not UTF-8; pack it again") from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile: a compression it lacks
        raise DataError(f"{path} cannot be read: {error}; pack it again as a plain zip or tar") from None


class TarArchive:
    """A tar whose headers are read once; contents are then read by position, in any order."""

    def __init__(self, path: Path, stream: IO[bytes], *, max_archive_bytes: int) -> None:
        self.path = path
        self._stream = stream
        self.entries = list(_unique(path, self._scan(max_archive_bytes)))

    def open(self, entry: Entry) -> IO[bytes]:
        return cast(IO[bytes], _Slice(self._stream, entry, self.path))

    def read(self, entry: Entry) -> bytes:
        with broken_as_data_error(self.path):
            self._stream.seek(entry.position)
            data = self._stream.read(entry.n_bytes)
        if len(data) < entry.n_bytes:
            raise DataError(f"{self.path} is truncated; download it again")
        return data

    def _scan(self, limit: int) -> Iterator[Entry]:
        source = _ShortReads(self._stream, self.path)
        with _wrong_numbers(self.path), tarfile.TarFile(fileobj=source, mode="r") as tar:  # type: ignore[arg-type]
            before = -1
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # TarFile keeps every header, 1 KB an image
                if member.size < 0 or tar.offset <= before:  # tarfile would loop forever (CVE-2025-8194)
                    raise DataError(f"{self.path} is damaged (a member of {member.size:,} bytes); download it again")
                before = tar.offset
                if tar.offset > limit:  # checked before the next header is read, so that nothing this large is unpacked
                    raise DataError(_too_big(self.path, tar.offset, limit))
                if member.issparse() or not (member.isreg() or member.isdir()):
                    kind = "a sparse file" if member.issparse() else _KINDS.get(member.type, "a file of unknown type")
                    raise DataError(f"{self.path}: member {shown(member.name)} is {kind}; only files are read")
                name = safe_name(member.name, self.path)
                if name:
                    yield Entry(name, member.size, member.isdir(), member.offset_data)
            end = tar.offset
        # tarfile takes a missing end, and a damaged header, for the end of the archive.
        self._stream.seek(end)
        if self._stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"{self.path} is truncated or damaged after byte {end:,}; download it again")
        # The checksum of a compressed file comes at its very end, behind the padding of the tar.
        while padding := self._stream.read(CHUNK_BYTES):
            end += len(padding)
            if end > limit:
                raise DataError(_too_big(self.path, end, limit))


class ZipArchive:
    """A zip; sizes are those of the central directory, and reading a member never returns more."""

    def __init__(self, path: Path, zipped: zipfile.ZipFile, *, max_archive_bytes: int) -> None:
        self.path = path
        self._zipped = zipped
        self._infos = zipped.infolist()
        n_bytes = sum(info.file_size for info in self._infos)
        if n_bytes > max_archive_bytes:
            raise DataError(_too_big(path, n_bytes, max_archive_bytes))
        self.entries = list(_unique(path, self._scan()))

    def open(self, entry: Entry) -> IO[bytes]:
        with broken_as_data_error(self.path):
            return self._zipped.open(self._infos[entry.position])

    def read(self, entry: Entry) -> bytes:
        with broken_as_data_error(self.path), self._zipped.open(self._infos[entry.position]) as member:
            data = member.read()
        if len(data) != entry.n_bytes:
            raise DataError(
                f"{self.path}: member {shown(entry.name)} holds {len(data):,} bytes, but its header says "
                f"{entry.n_bytes:,}; download it again"
            )
        return data

    def _scan(self) -> Iterator[Entry]:
        slashes = any("/" in info.orig_filename for info in self._infos)
        for position, info in enumerate(self._infos):
            mode = info.external_attr >> 16  # Unix file type and rights; 0 from other systems
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "a device"
                raise DataError(f"{self.path}: member {shown(info.filename)} is {kind}; only files are read")
            if info.flag_bits & 0x1:
                raise DataError(f"{self.path}: member {shown(info.filename)} is encrypted; pack it without a password")
            spelled = zip_name(info, self.path)
            name = safe_name(spelled, self.path)
            if info.create_system in _WINDOWS or not slashes:
                name, spelled = name.replace("\\", "/"), spelled.replace("\\", "/")
            name = name.strip("/")
            if name:
                yield Entry(name, info.file_size, spelled.endswith("/"), position)


class _Slice(io.RawIOBase):
    """The bytes of one tar member as a stream."""

    def __init__(self, stream: IO[bytes], entry: Entry, path: Path) -> None:
        super().__init__()
        self._stream, self._path = stream, path
        self._start, self._size, self._place = entry.position, entry.n_bytes, 0

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        n = max(0, min(len(view), self._size - self._place))
        with broken_as_data_error(self._path):
            self._stream.seek(self._start + self._place)
            data = self._stream.read(n)
        if len(data) < n:
            raise DataError(f"{self._path} is truncated; download it again")
        view[:n] = data
        self._place += n
        return n

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _ShortReads:
    """A reader for tarfile that rejects huge headers before they are read into memory."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path = stream, path
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, n: int) -> bytes:
        if n > LONGEST_HEADER:
            raise DataError(
                f"{self._path}: a header of {n:,} bytes, more than {LONGEST_HEADER:,}; this is not a dataset"
            )
        if n < 0:  # to the stream it means: everything
            raise DataError(f"{self._path} is damaged (a header of {n:,} bytes); download it again")
        return self._stream.read(n)


@contextmanager
def _wrong_numbers(path: Path) -> Iterator[None]:
    """Turn tarfile's exceptions for invalid or huge numbers into a DataError."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path} is damaged ({escaped(str(error))[:80]}); download it again") from None


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    for kind, magic in {"gz": b"\x1f\x8b", "xz": b"\xfd7zXZ\x00", "bz2": b"BZh"}.items():
        if head.startswith(magic):
            return kind
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "tar" if head[257:262] == b"ustar" or head == bytes(tarfile.BLOCKSIZE) else None


def _unpacked(path: Path, kind: str) -> IO[bytes]:
    if kind == "gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if kind == "xz":
        return lzma.open(path, "rb")
    return bz2.open(path, "rb") if kind == "bz2" else path.open("rb")


def _unique(path: Path, entries: Iterator[Entry]) -> Iterator[Entry]:
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        if number > MOST_MEMBERS:
            raise DataError(f"{path} has more than {MOST_MEMBERS:,} members; pack it as several, or as arrays")
        if entry.name in seen and not entry.is_dir:
            raise DataError(f"{path}: the member {shown(entry.name)} appears twice; expected one file per name")
        seen.add(entry.name)
        yield entry


def _too_big(path: Path, n_bytes: int, limit: int) -> str:
    return (
        f"{path} unpacks to at least {n_bytes:,} bytes, more than {limit:,}; "
        "raise preprocess.max_archive_bytes if you trust it"
    )
