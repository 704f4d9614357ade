"""Read a dataset, as downloaded or as a directory, as a stream of labelled images."""

import json
import stat
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.data.raw.cifar import cifar_blocks
from darkroom.data.raw.idx_npz import Block, idx_blocks, npz_blocks
from darkroom.data.raw.listing import Listing, listing_of_archive
from darkroom.data.raw.placement import OFFICIAL, Folders, Placed, check_classes, is_litter, place
from darkroom.data.raw.tables import Columns, read_and_place
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.files.array_folder import MANIFEST
from darkroom.project.text import shown, utf8

ARCHIVED = ("folders", "table")  # kinds of layouts whose images are the files of one archive


@dataclass(frozen=True)
class Oversized:
    """Stands for the content of an image that has more bytes than allowed and was not read."""

    n_bytes: int


@dataclass(frozen=True)
class RawImage:
    """One image before it is decoded.

    Attributes:
        name: unique and stable, whatever the container: "train/00017" for arrays, "train/cats/a.jpg" for files.
        label: the class name.
        split: "train", "val" or "test", None where the data bring no split.
        data: the encoded file, or the pixels, uint8, (H, W) or (H, W, 3) RGB, or Oversized.
        attributes: what else a label table says of it.
    """

    name: str
    label: str
    split: str | None
    data: bytes | np.ndarray | Oversized
    attributes: Mapping[str, str] = field(default_factory=dict)


def read_images(
    directory: Path, *, max_archive_bytes: int, max_image_bytes: int, only: Container[str] | None = None
) -> Iterator[RawImage]:
    """Return the images of data/raw as a stream; order and names depend on the files alone; train, val, test.

    Args:
        directory: what the download stage wrote: the files and manifest.json, which names their layout.
        max_archive_bytes: the most that one file may unpack to.
        max_image_bytes: an image with more bytes is not read; its data are Oversized.
        only: names of the images to return; None: all.

    Raises:
        DataError: the directory is incomplete; a file is truncated, damaged, unsafe or not what its layout says; there
            are no images, or only one class; two class names differ by case or Unicode form only. Some of these are
            found, and raised, only while reading.
    """
    manifest = read_manifest(directory)
    paths = [directory / file["name"] for file in manifest["files"]]
    layout = manifest["layout"]
    classes: list[str] | None = layout.get("classes")
    blocks: Iterator[Block]
    if layout["kind"] in ARCHIVED:
        images = _archived(
            paths, layout, max_archive_bytes=max_archive_bytes, max_image_bytes=max_image_bytes, only=only
        )
    elif layout["kind"] == "npz":
        blocks = (
            block for path in paths for block in npz_blocks(path, classes=classes, max_archive_bytes=max_archive_bytes)
        )
        images = _numbered(blocks, directory, max_image_bytes=max_image_bytes, only=only)
    elif layout["kind"] in ("idx", "cifar"):
        read = idx_blocks if layout["kind"] == "idx" else cifar_blocks
        blocks = read(paths, classes=classes, max_archive_bytes=max_archive_bytes)
        images = _numbered(blocks, directory, max_image_bytes=max_image_bytes, only=only)
    else:
        raise DataError(f"{directory / MANIFEST}: unknown layout {layout['kind']!r}; run `dvc repro download`")
    return images


def read_folder(directory: Path, *, max_image_bytes: int, only: Container[str] | None = None) -> Iterator[RawImage]:
    """Yield the images of a directory `<class>/**/file`, sorted by name; none where there is none. Links are followed.

    Args:
        max_image_bytes, only: see read_images.

    Raises:
        DataError: the directory does not exist, an image lies in no class directory, two class names differ by case or
            Unicode form only, or a file is unreadable or no regular file. A .gitignore or .dvc file, like any document,
            may lie beside the class directories.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; expected <class>/<image>")
    entries = list(walk(directory))
    names = [(name, is_dir) for name, _, is_dir in entries]
    for placed in place(names, where=directory, folders=None):
        if only is not None and placed.name not in only:
            continue
        path = entries[placed.number][1]
        try:
            n_bytes = path.stat().st_size
            data = path.read_bytes() if n_bytes <= max_image_bytes else Oversized(n_bytes)
        except OSError as error:
            raise DataError(f"{directory}: cannot read {shown(placed.name)}: {error.strerror}") from None
        yield RawImage(placed.name, placed.label, None, data)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of data/raw after a check that every file it lists is there in full size.

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


def walk(directory: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield (name with "/", path, is it a directory) of everything below but hidden files and litter, sorted by name.

    Raises:
        DataError: a directory that holds itself through a link, a broken link, a device, socket or named pipe.
    """
    yield from _walk(directory, directory, "", ())


def _walk(
    top: Path, directory: Path, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Path, bool]]:
    try:
        here = directory.stat()
        children = sorted(child.name for child in directory.iterdir())
    except OSError as error:
        raise DataError(f"{top}: cannot read {shown(prefix or '.')}: {error.strerror}") from None
    if (here.st_dev, here.st_ino) in above:
        raise DataError(f"{top}: {shown(prefix)} is a link to one of its own parent directories; remove the link")
    for child in children:
        if is_litter(child):
            continue
        path, name = directory / child, f"{prefix}{utf8(child)}"
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise DataError(f"{top}: cannot read {shown(name)}: {error.strerror}") from None
        if stat.S_ISDIR(mode):
            yield name, path, True
            yield from _walk(top, path, f"{name}/", (*above, (here.st_dev, here.st_ino)))
        elif stat.S_ISREG(mode):
            yield name, path, False
        else:
            raise DataError(f"{top}: {shown(name)} is not a regular file; remove it")


def placed_in(listing: Listing, layout: Mapping[str, Any]) -> list[Placed]:
    """Return the images of a listing, by its directories or its label table; a number is a position in it.

    Raises:
        DataError: see placement.place, placement.check_classes and tables.read_and_place.
    """
    if layout["kind"] == "folders":
        found = place(listing.names, where=listing.where, folders=Folders.of(layout))
    else:
        found = read_and_place(
            listing.names, n_bytes=listing.n_bytes, read=listing.read, where=listing.where, columns=Columns.of(layout)
        )
    check_classes(found, where=listing.where)
    return found


def _archived(
    paths: Sequence[Path],
    layout: Mapping[str, Any],
    *,
    max_archive_bytes: int,
    max_image_bytes: int,
    only: Container[str] | None,
) -> Iterator[RawImage]:
    if len(paths) != 1:
        raise DataError(f"{paths[0].parent}: {len(paths)} files, expected one zip or tar of images")
    with open_archive(paths[0], max_archive_bytes=max_archive_bytes) as archive:
        placed = placed_in(listing_of_archive(archive), layout)
        placed.sort(key=lambda image: OFFICIAL.index(image.split or "train"))  # stable: the archive's order in a split
        for image in placed:
            if only is not None and image.name not in only:
                continue
            entry = archive.entries[image.number]
            too_big = entry.n_bytes > max_image_bytes
            data = Oversized(entry.n_bytes) if too_big else archive.read(entry)
            yield RawImage(image.name, image.label, image.split, data, image.attributes)


def _numbered(
    blocks: Iterable[Block], directory: Path, *, max_image_bytes: int, only: Container[str] | None
) -> Iterator[RawImage]:
    counts: dict[str | None, int] = {}
    labels: set[str] = set()
    for block in blocks:
        labels.update(block.labels)
        start = counts.setdefault(block.split, 0)
        prefix = f"{block.split}/" if block.split else ""
        n_bytes = block.pixels[0].nbytes if len(block.pixels) else 0
        for offset, (label, pixels) in enumerate(zip(block.labels, block.pixels, strict=True)):
            name = f"{prefix}{start + offset:05d}"
            if only is None or name in only:
                data = pixels if n_bytes <= max_image_bytes else Oversized(n_bytes)
                yield RawImage(name, label, block.split, data)
        counts[block.split] = start + len(block.labels)
    if len(labels) < 2:
        what = f"only one class, {shown(labels.pop())}" if labels else "no images"
        raise DataError(f"{directory}: found {what}; a classifier needs two classes")
