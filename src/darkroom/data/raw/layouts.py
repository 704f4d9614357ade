"""Read a dataset, as downloaded or as a directory, as a stream of labelled images."""

import json
import stat
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darkroom.data.raw.cifar import cifar_blocks
from darkroom.data.raw.idx_npz import Block, idx_blocks, npz_blocks
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.files.array_folder import MANIFEST
from darkroom.project.text import shown, utf8

# How official parts are named. A validation part joins the training images: val is always drawn by content.
SPLITS = {"train": "train", "training": "train", "val": "train", "valid": "train", "validation": "train"}
SPLITS |= {"test": "test", "testing": "test"}

_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_DOCUMENTS = {".md", ".rst", ".txt", ".pdf", ".html", ".htm", ".docx", ".csv", ".tsv", ".json", ".yaml", ".yml", ".xml"}
_DOCUMENTS |= {".dvc"}  # what `dvc add data/incoming/cats` writes beside the directory
_DOCUMENT_STEMS = {"readme", "license", "licence", "copying", "notice", "citation", "changelog"}


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
        split: "train" or "test", None where the data bring no official test images.
        data: the encoded file, or the pixels, uint8, (H, W) or (H, W, 3) RGB, or Oversized.
    """

    name: str
    label: str
    split: str | None
    data: bytes | np.ndarray | Oversized


class Placed(NamedTuple):
    """A file of a directory dataset: its number in the listing, its name below the root, its class and split."""

    number: int
    name: str
    label: str
    split: str | None


def read_images(
    directory: Path, *, max_archive_bytes: int, max_image_bytes: int, only: Container[str] | None = None
) -> Iterator[RawImage]:
    """Return the images of data/raw as a stream; order and names depend on the files alone, train comes before test.

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
    if layout["kind"] == "folders":
        images = _archived_folders(
            paths,
            root=layout.get("root"),
            max_archive_bytes=max_archive_bytes,
            max_image_bytes=max_image_bytes,
            only=only,
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
    for placed in place(names, where=directory, splits=False):
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
        if _is_litter(child):
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


def place(
    names: Iterable[tuple[str, bool]], *, where: Path, root: str | None = None, splits: bool = True
) -> list[Placed]:
    """Return the image files among `names` with their class, and split if the top directories are train and test.

    Args:
        names: (path with "/" between its parts, whether it is a directory), in any order, which is kept.
        where: what to call the dataset in an error.
        root: the directory that holds the classes; what lies beside it is not looked at.
        splits: whether top directories called train, test (and val) are official parts rather than classes.

    Raises:
        DataError: no such root, an image in no class directory, another directory beside official parts, or two class
            names that differ by case or Unicode form only. A document (README, .txt, .csv, ...) beside the class
            directories is passed over.
    """
    prefix = f"{root.strip('/')}/" if root else ""
    found = [
        (index, name.removeprefix(prefix), is_dir)
        for index, (name, is_dir) in enumerate(names)
        if name.startswith(prefix) and not any(_is_litter(part) for part in name.split("/"))
    ]
    if root and not found:
        raise DataError(f"{where}: no such directory: {shown(root)}; correct `root` in the layout")
    tops = {name.partition("/")[0] for _, name, is_dir in found if is_dir or "/" in name}
    parts = {SPLITS.get(top.casefold()) for top in tops}
    if splits and parts > {"train", "test"}:
        _check_parts([name for _, name, is_dir in found if not is_dir], tops, where)
    official = splits and parts == {"train", "test"}
    depth = 1 if official or (splits and parts == {"train"} and len(tops) > 1) else 0
    placed: list[Placed] = []
    folders: set[str] = set()
    for index, name, is_dir in found:
        above = name.split("/")
        if is_dir:
            folders.update(above[depth : depth + 1])
        elif len(above) > depth + 1:
            split = SPLITS[above[0].casefold()] if official else None
            placed.append(Placed(index, name, above[depth], split))
        elif not _is_document(above[-1]):
            example = "train/<class>/<image>" if depth else "<class>/<image>"
            raise DataError(f"{where}: {shown(name)} is not in a class directory; expected {example}")
    _check_names(folders | {image.label for image in placed}, where)
    empty = folders - {image.label for image in placed}
    if splits and empty and placed:
        raise DataError(f"{where}: the class directory {shown(min(empty))} has no images; add some or remove it")
    return placed


def check_classes(images: Sequence[Placed], *, where: Path) -> None:
    """Check that there are images, in two classes or more, each of which can be learnt from.

    Raises:
        DataError: no image, one class only, or a class with test images only.
    """
    labels = {image.label for image in images}
    if not labels:
        raise DataError(f"{where}: no images found; expected <class>/<image> or train/<class>/<image>")
    if len(labels) == 1:
        only = shown(labels.pop())
        raise DataError(
            f"{where}: only one class, {only}; a classifier needs two. If {only} is the directory that holds "
            f"the classes, set `root` in the layout to it"
        )
    untaught = labels - {image.label for image in images if image.split != "test"}
    if untaught:
        raise DataError(f"{where}: class {shown(min(untaught))} has images only in test; add some to train")


def _archived_folders(
    paths: Sequence[Path],
    *,
    root: str | None,
    max_archive_bytes: int,
    max_image_bytes: int,
    only: Container[str] | None,
) -> Iterator[RawImage]:
    if len(paths) != 1:
        raise DataError(f"{paths[0].parent}: {len(paths)} files, expected one zip or tar with class directories")
    with open_archive(paths[0], max_archive_bytes=max_archive_bytes) as archive:
        placed = place(((entry.name, entry.is_dir) for entry in archive.entries), where=paths[0], root=root)
        check_classes(placed, where=paths[0])
        placed.sort(key=lambda image: image.split == "test")  # stable: inside a split the order of the archive
        for image in placed:
            if only is not None and image.name not in only:
                continue
            entry = archive.entries[image.number]
            too_big = entry.n_bytes > max_image_bytes
            data = Oversized(entry.n_bytes) if too_big else archive.read(entry)
            yield RawImage(image.name, image.label, image.split, data)


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


def _check_parts(files: Iterable[str], tops: set[str], where: Path) -> None:
    """Refuse train/<class>/<image> beside an odd folder, which would make train and test themselves the classes."""
    nested = {SPLITS.get(name.partition("/")[0].casefold()) for name in files if name.count("/") > 1}
    if {"train", "test"} <= nested:
        odd = shown(min(top for top in tops if top.casefold() not in SPLITS))
        raise DataError(
            f"{where}: unexpected directory {odd} beside train and test; remove it, or set `root` in the layout to "
            "the directory that holds all classes"
        )


def same_name(name: str) -> str:
    """Return what two class names share that are one name to some file systems: its NFC form, case folded."""
    return unicodedata.normalize("NFC", name).casefold()


def _check_names(classes: set[str], where: Path) -> None:
    forms: dict[str, str] = {}
    for name in sorted(classes):
        other = forms.setdefault(same_name(name), name)
        if other != name:
            # Two forms of one accented letter look the same on a screen; ascii() tells them apart.
            same = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
            both = f"{other!a} and {name!a}" if same else f"{shown(other)} and {shown(name)}"
            raise DataError(
                f"{where}: the class names {both} differ only in case or Unicode form; merge the directories"
            )


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _LITTER


def _is_document(name: str) -> bool:
    stem, dot, suffix = name.casefold().rpartition(".")
    return f"{dot}{suffix}" in _DOCUMENTS or (stem or suffix).split(".")[0] in _DOCUMENT_STEMS
