"""Read a dataset, downloaded or in a directory, as a stream of labelled images."""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darkroom.data.raw.cifar import cifar_blocks
from darkroom.data.raw.idx_npz import Block, idx_blocks, npz_blocks
from darkroom.data.raw.labels import LISTED, placed_in
from darkroom.data.raw.listing import Listing, listing_of_archive, listing_of_files, unreadable, walk
from darkroom.data.raw.names import OFFICIAL
from darkroom.data.raw.placement import Placed, check_classes, check_names, place
from darkroom.data.raw.shards import NO_BYTES, is_shard, read_rows
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.files.array_folder import MANIFEST
from darkroom.project.text import shown

UNION = "union"  # the kind of a layout with the layouts of several sources
_ARRAYS = ("idx", "npz", "cifar")
UNREADABLE = ".darkroom-unreadable.json"  # in an archive packed by download: unreadable files, with the reasons


@dataclass(frozen=True)
class Unread:
    """Stands for the content of an image that was not read, with the reason."""

    reason: str


def oversized(n_bytes: int) -> Unread:
    """Return the Unread of an image with more bytes than allowed."""
    return Unread(f"{n_bytes} bytes exceed preprocess.max_image_bytes")


def content_of(listing: Listing, number: int, *, max_image_bytes: int) -> bytes | Unread:
    """Return the content of a file, Unread if it cannot be read or is too large."""
    if reason := listing.unread(number):
        return Unread(reason)
    n_bytes = listing.n_bytes(number)
    return listing.read(number) if n_bytes <= max_image_bytes else oversized(n_bytes)


@dataclass(frozen=True)
class RawImage:
    """One image before it is decoded.

    Attributes:
        name: unique and stable: "train/00017" for arrays, "train/cats/a.jpg" for files.
        label: the class name.
        split: "train", "val" or "test", None if the dataset has no splits.
        data: the encoded file, or the pixels, uint8, (H, W) or (H, W, 3) RGB, or Unread.
        attributes: the other columns of a label table.
    """

    name: str
    label: str
    split: str | None
    data: bytes | np.ndarray | Unread
    attributes: Mapping[str, str] = field(default_factory=dict)


class _Part(NamedTuple):
    """A source of the dataset: its files, their layout, and the prefix of the names of its images."""

    paths: list[Path]
    layout: dict[str, Any]
    prefix: str


class _Listed(NamedTuple):
    """The images of a source that are known before they are read.

    Attributes:
        placed: train, val, test; each in the order of the archive.
        read: yields the contents of some of them, fastest in the order of `placed`.
    """

    placed: list[Placed]
    read: Callable[[Sequence[Placed], int], Iterator[bytes | Unread]]


def read_images(
    directory: Path, *, max_archive_bytes: int, max_image_bytes: int, only: Container[str] | None = None
) -> Iterator[RawImage]:
    """Return the images of data/raw as a stream, train, val, test; order and names depend only on the files.

    The sources of a union come one after the other, each in this order.

    Args:
        directory: the output of the download stage: the files and manifest.json with their layout.
        max_archive_bytes: maximum unpacked size of a file.
        max_image_bytes: an image with more bytes is not read; its data are Unread.
        only: names of the images to return; None: all.

    Raises:
        DataError: the directory is incomplete; a file is truncated, damaged, unsafe or does not fit its layout; there
            are no images, or only one class; two class names differ only in case or Unicode form. Some of these are
            raised only while reading.
    """
    parts = _parts(directory)

    def stream() -> Iterator[RawImage]:
        with _opened(directory, parts, max_archive_bytes=max_archive_bytes) as images:
            yield from images.read(max_image_bytes=max_image_bytes, only=only)

    return stream()


@contextmanager
def open_images(directory: Path, *, max_archive_bytes: int) -> Iterator["Images"]:
    """Yield the images of data/raw, to be listed and then read; see read_images for arguments and errors."""
    with _opened(directory, _parts(directory), max_archive_bytes=max_archive_bytes) as images:
        yield images


class Images:
    """The result of open_images."""

    def __init__(
        self, directory: Path, parts: Sequence[tuple[_Part, _Listed | None]], *, max_archive_bytes: int
    ) -> None:
        self._directory, self._parts, self._max_archive_bytes = directory, parts, max_archive_bytes

    def classes(self) -> set[str]:
        """Return the classes, empty if they are known only after arrays are read."""
        if any(listed is None for _, listed in self._parts):
            return set()
        return {image.label for _, listed in self._parts if listed for image in listed.placed}

    def names(self) -> Iterator[tuple[str, str | None]]:
        """Yield the name and split of every image; of the files, only arrays are read."""
        for part, listed in self._parts:
            images = listed.placed if listed else self._numbered(part, set(), 0, None)
            yield from ((f"{part.prefix}{image.name}", image.split) for image in images)

    def read(self, *, max_image_bytes: int, only: Container[str] | None = None) -> Iterator[RawImage]:
        """Yield the images; see read_images."""
        labels: set[str] = set()
        for part, listed in self._parts:
            if listed is None:
                yield from self._numbered(part, labels, max_image_bytes, only)
                continue
            wanted = [image for image in listed.placed if only is None or f"{part.prefix}{image.name}" in only]
            labels.update(image.label for image in listed.placed)
            for image, data in zip(wanted, listed.read(wanted, max_image_bytes), strict=True):
                yield RawImage(f"{part.prefix}{image.name}", image.label, image.split, data, image.attributes)
        if len(labels) < 2:
            what = f"only one class, {shown(labels.pop())}" if labels else "no images"
            raise DataError(f"{self._directory}: found {what}; a classifier needs two classes")

    def _numbered(
        self, part: _Part, labels: set[str], max_image_bytes: int, only: Container[str] | None
    ) -> Iterator[RawImage]:
        """Yield the wanted images of arrays, and add the classes of all images to `labels`."""
        counts: dict[str | None, int] = {}
        for block in _blocks(part, max_archive_bytes=self._max_archive_bytes):
            labels.update(block.labels)
            start = counts.setdefault(block.split, 0)
            prefix = f"{part.prefix}{block.split}/" if block.split else part.prefix
            n_bytes = block.pixels[0].nbytes if len(block.pixels) else 0
            for offset, (label, pixels) in enumerate(zip(block.labels, block.pixels, strict=True)):
                name = f"{prefix}{start + offset:05d}"
                if only is None or name in only:
                    data = pixels if n_bytes <= max_image_bytes else oversized(n_bytes)
                    yield RawImage(name, label, block.split, data)
            counts[block.split] = start + len(block.labels)


def list_folder(directory: Path) -> list[tuple[Placed, Path]]:
    """Return the images of a directory `<class>/**/file` and their paths, sorted by name; links are followed.

    Raises:
        DataError: the directory does not exist, an image is in no class directory, or two class names differ only in
            case or Unicode form. Documents, .gitignore and .dvc files may lie beside the class directories.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; expected <class>/<image>")
    entries = list(walk(directory))
    names = [(name, is_dir) for name, _, is_dir in entries]
    return [(image, entries[image.number][1]) for image in place(names, where=directory, folders=None)]


def read_folder(images: Iterable[tuple[Placed, Path]], *, max_image_bytes: int) -> Iterator[RawImage]:
    """Yield images that list_folder() returned; the data of an unreadable file are Unread.

    Args:
        max_image_bytes: see read_images.
    """
    for image, path in images:
        yield RawImage(image.name, image.label, None, _content(path, max_image_bytes))


def _content(path: Path, max_image_bytes: int) -> bytes | Unread:
    if reason := unreadable(path):
        return Unread(reason)
    try:
        n_bytes = path.stat().st_size
        return path.read_bytes() if n_bytes <= max_image_bytes else oversized(n_bytes)
    except OSError as error:  # of the disk, or the file was just deleted
        return Unread(str(error.strerror))


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of data/raw; check that every file in it exists and has its size.

    Raises:
        DataError: it is missing or damaged, or a file is missing or of another size.
    """
    again = "is incomplete; run `dvc repro download`"
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        sizes = {str(file["name"]): int(file["bytes"]) for file in manifest["files"]}
        _ = manifest["layout"]["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{directory} {again} (no valid {MANIFEST})") from None
    for name, n_bytes in sizes.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != n_bytes:
            raise DataError(f"{directory} {again} ({name} is missing or does not have {n_bytes:,} bytes)")
    return manifest


def _parts(directory: Path) -> list[_Part]:
    """Return the sources of data/raw; only those of a union have a prefix, the directory of their files."""
    manifest = read_manifest(directory)
    paths = [directory / file["name"] for file in manifest["files"]]
    parts = [_Part(paths, manifest["layout"], "")]
    if manifest["layout"]["kind"] == UNION:
        layouts = manifest["layout"]["layouts"]
        parts = [
            _Part([path for path in paths if path.parent.name == name], layout, f"{name}/")
            for name, layout in layouts.items()
        ]
    for part in parts:
        if part.layout["kind"] not in (*LISTED, *_ARRAYS):
            raise DataError(f"{directory / MANIFEST}: unknown layout {part.layout['kind']!r}; run `dvc repro download`")
    return parts


@contextmanager
def _opened(directory: Path, parts: Sequence[_Part], *, max_archive_bytes: int) -> Iterator[Images]:
    with ExitStack() as stack:
        opened = [
            (part, stack.enter_context(_listed(part, max_archive_bytes)) if part.layout["kind"] in LISTED else None)
            for part in parts
        ]
        placed = [image for _, listed in opened if listed for image in listed.placed]
        where = parts[0].paths[0] if len(parts) == 1 else directory
        if all(listed for _, listed in opened):
            check_classes(placed, where=where)
        check_names({image.label for image in placed}, where)
        yield Images(directory, opened, max_archive_bytes=max_archive_bytes)


@contextmanager
def _listed(part: _Part, max_archive_bytes: int) -> Iterator[_Listed]:
    """Yield the images of an archive, or of parquet files."""
    paths = part.paths
    if part.layout["kind"] == "parquet" and all(is_shard(path.name) for path in paths):
        listing = listing_of_files(paths[0].parent, [(path.name, path, False) for path in paths])
        yield _in(listing, part.layout, max_archive_bytes=max_archive_bytes)
        return
    if len(paths) != 1:
        raise DataError(f"{paths[0].parent}: {len(paths)} files, expected one zip or tar of images")
    with open_archive(paths[0], max_archive_bytes=max_archive_bytes) as archive:
        yield _in(listing_of_archive(archive), part.layout, max_archive_bytes=max_archive_bytes)


def _in(listing: Listing, layout: Mapping[str, Any], *, max_archive_bytes: int) -> _Listed:
    placed = placed_in(listing, layout, max_archive_bytes=max_archive_bytes)
    placed.sort(key=lambda image: OFFICIAL.index(image.split or "train"))  # stable: the archive's order in a split
    notes = next((number for number, (name, _) in enumerate(listing.names) if name == UNREADABLE), None)
    unread: dict[str, str] = json.loads(listing.read(notes)) if notes is not None else {}
    names = listing.names
    listing = replace(listing, unread=lambda number: unread.get(names[number][0]))  # others are an error

    def files(images: Sequence[Placed], max_image_bytes: int) -> Iterator[bytes | Unread]:
        return (content_of(listing, image.number, max_image_bytes=max_image_bytes) for image in images)

    def rows(images: Sequence[Placed], max_image_bytes: int) -> Iterator[bytes | Unread]:
        for data in read_rows(listing, layout, [image.number for image in images]):
            if data is None:
                yield Unread(NO_BYTES)
            else:
                yield data if len(data) <= max_image_bytes else oversized(len(data))

    return _Listed(placed, rows if layout["kind"] == "parquet" else files)


def _blocks(part: _Part, *, max_archive_bytes: int) -> Iterator[Block]:
    classes: list[str] | None = part.layout.get("classes")
    if part.layout["kind"] == "npz":
        for path in part.paths:
            yield from npz_blocks(path, classes=classes, max_archive_bytes=max_archive_bytes)
    else:
        read = idx_blocks if part.layout["kind"] == "idx" else cifar_blocks
        yield from read(part.paths, classes=classes, max_archive_bytes=max_archive_bytes)
