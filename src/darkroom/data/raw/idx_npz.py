"""Read the array formats IDX and npz as blocks of images."""

import gzip
import re
import struct
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from darkroom.errors import DataError
from darkroom.files.archives import Readable, broken_as_data_error, open_archive
from darkroom.project.text import shown

BLOCK_BYTES = 4 << 20  # of pixels read at once, which a stream of images keeps in memory

IDX_NAME = re.compile(r"(?P<split>train|t10k|test)-(?P<what>images|labels)[.-]idx[134]-ubyte(\.gz)?$")


class Block(NamedTuple):
    """Consecutive images of one split: labels (n class names), pixels (n, H, W) or (n, H, W, 3), uint8, RGB."""

    split: str | None
    labels: list[str]
    pixels: np.ndarray


def idx_blocks(paths: Sequence[Path], *, classes: Sequence[str] | None, max_archive_bytes: int) -> Iterator[Block]:
    """Yield the images of IDX files (LeCun's format, gzip or not): train-images with train-labels, then t10k-* (test).

    Args:
        paths: the files; their names tell images from labels.
        classes: the class names by number; without them the numbers are the names.
        max_archive_bytes: maximum unpacked size of a file.

    Raises:
        DataError: there are no training images, or a file lacks its partner, is not IDX of unsigned bytes, truncated or
            too long; or counts disagree, a file is too large, or a label has no class name.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in paths:
        if match := IDX_NAME.search(path.name):
            split = "train" if match["split"] == "train" else "test"
            found[split, match["what"]] = path
    if ("train", "images") not in found:
        raise DataError(f"expected a file train-images-idx3-ubyte(.gz), found {listed(path.name for path in paths)}")
    for split in ("train", "test"):
        images, labels = found.get((split, "images")), found.get((split, "labels"))
        if images and labels:
            yield from _idx_split(split, images, labels, classes=classes, limit=max_archive_bytes)
        elif images or labels:
            raise DataError(f"{images or labels}: the matching {'labels' if images else 'images'} file is missing")


def npz_blocks(path: Path, *, classes: Sequence[str] | None, max_archive_bytes: int) -> Iterator[Block]:
    """Yield the images of an npz file: x_train, y_train and optionally x_test, y_test; or images, labels (no split).

    Images are uint8, (n, H, W), (n, H, W, 1) or (n, H, W, 3); labels are integers or strings, (n,) or (n, 1).
    Nothing is unpickled, and the images are never in memory as a whole.

    Raises:
        DataError: the file has other arrays, shapes or types, counts disagree, or it is truncated, damaged or too big.
    """
    with open_archive(path, max_archive_bytes=max_archive_bytes) as archive:
        entries = {entry.name.removesuffix(".npy"): entry for entry in archive.entries}
        pairs = [("train", "x_train", "y_train"), ("test", "x_test", "y_test")]
        if "x_train" not in entries:
            pairs = [("", "images", "labels")]
        elif "x_test" not in entries:
            pairs = [("", "x_train", "y_train")]
        for split, x, y in pairs:
            if x not in entries or y not in entries:
                raise DataError(
                    f"{path}: expected the arrays x_train, y_train, x_test, y_test, or images, labels; "
                    f"found {listed(entries)}"
                )
            with archive.open(entries[y]) as stream, broken_as_data_error(path):
                shape, dtype = _npy_header(stream, entries[y].n_bytes, path, y)
                labels = np.frombuffer(_exactly(stream, prod(shape) * dtype.itemsize, path), dtype)
                _ended(stream, path)
            if len(shape) > 2 or shape[1:] not in ((), (1,)) or dtype.kind not in "iuU":
                raise DataError(f"{path}: {y} is {dtype}, shape {shape}; expected integers or strings, one per image")
            names = class_names(labels, classes, path)
            with archive.open(entries[x]) as stream:
                with broken_as_data_error(path):
                    shape, dtype = _npy_header(stream, entries[x].n_bytes, path, x)
                if dtype != np.uint8 or len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
                    raise DataError(f"{path}: {x} is {dtype}, shape {shape}; expected uint8, (n, H, W) or (n, H, W, 3)")
                yield from _blocks(stream, path, split=split or None, shape=shape, labels=names)


def _idx_split(split: str, images: Path, labels: Path, *, classes: Sequence[str] | None, limit: int) -> Iterator[Block]:
    with _idx(labels, limit) as (stream, shape):
        if len(shape) != 1:
            raise DataError(f"{labels}: {len(shape)} dimensions, expected 1: one label per image")
        numbers = np.frombuffer(_exactly(stream, shape[0], labels), np.uint8)
        _ended(stream, labels)
    with _idx(images, limit) as (stream, shape):
        if len(shape) != 3 and not (len(shape) == 4 and shape[3] == 3):
            raise DataError(f"{images}: the shape is {shape}, expected (n, H, W) or (n, H, W, 3)")
        yield from _blocks(stream, images, split=split, shape=shape, labels=class_names(numbers, classes, labels))


@contextmanager
def _idx(path: Path, limit: int) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Yield an IDX file positioned after its header, and the shape in the header."""
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
        if stream.read(2) == b"\x1f\x8b":
            stream = cast(IO[bytes], stack.enter_context(gzip.open(path, "rb")))
        else:
            stream.seek(0)
        zero, kind, n_dimensions = struct.unpack(">HBB", _exactly(stream, 4, path))
        if zero or kind != 0x08 or not 1 <= n_dimensions <= 4:
            raise DataError(f"{path}: not an IDX file of unsigned bytes; download it again, or correct its layout")
        shape = struct.unpack(f">{n_dimensions}I", _exactly(stream, 4 * n_dimensions, path))
        if prod(shape) > limit:
            raise DataError(
                f"{path} unpacks to {prod(shape):,} bytes, more than {limit:,}; "
                "raise preprocess.max_archive_bytes if you trust it"
            )
        yield stream, shape


def _npy_header(stream: Readable, n_bytes: int, path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an npy file from the stream; return shape and dtype."""
    try:
        version = np.lib.format.read_magic(stream)  # type: ignore[arg-type]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)  # type: ignore[arg-type]
    except (ValueError, SyntaxError, tokenize.TokenError, MemoryError) as error:  # the header is a Python literal
        raise DataError(f"{path}: {name} is not an npy array ({str(error).partition(chr(10))[0]})") from None
    if min(shape, default=0) < 0:
        raise DataError(f"{path}: {name} is damaged (its shape is {shape}); download it again")
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects, which only unpickling could read; save plain numbers")
    if fortran_order and len(shape) > 1:
        raise DataError(f"{path}: {name} is in Fortran order; save it through np.ascontiguousarray")
    if prod(shape) * dtype.itemsize > n_bytes:  # before anything of that size is allocated
        raise DataError(f"{path}: {name} is truncated; download it again")
    return shape, dtype


def _blocks(
    stream: Readable, path: Path, *, split: str | None, shape: tuple[int, ...], labels: list[str]
) -> Iterator[Block]:
    n, *rest = shape
    if n != len(labels):
        raise DataError(f"{path}: {n:,} images, but {len(labels):,} labels; expected equal numbers")
    image_shape = tuple(rest[:2] if rest[2:] == [1] else rest)
    n_bytes = prod(image_shape)
    if n and not n_bytes:
        raise DataError(f"{path}: the images have shape {image_shape}, which has no pixels")
    step = max(1, BLOCK_BYTES // max(1, n_bytes))
    for start in range(0, n, step):
        part = labels[start : start + step]
        pixels = np.frombuffer(_exactly(stream, len(part) * n_bytes, path), np.uint8)
        yield Block(split, part, pixels.reshape(len(part), *image_shape))
    _ended(stream, path)


def _exactly(stream: Readable, n: int, path: Path) -> bytes:
    with broken_as_data_error(path):
        data = stream.read(n)
    if len(data) < n:
        raise DataError(f"{path} is truncated: {n - len(data):,} bytes are missing; download it again")
    return data


def _ended(stream: Readable, path: Path) -> None:
    with broken_as_data_error(path):  # reading past the last byte also checks the checksum
        if stream.read(1):
            raise DataError(f"{path} is longer than its header says; download it again")


def class_names(labels: np.ndarray, classes: Sequence[str] | None, where: Path) -> list[str]:
    """Return the class name of every label: `classes` by number, else the number or the string itself.

    Raises:
        DataError: a number without a class name.
    """
    values = labels.reshape(-1).tolist()
    if classes is None or labels.dtype.kind == "U":
        return [str(value) for value in values]
    for value in values:
        if not 0 <= value < len(classes):
            raise DataError(f"{where}: label {value} is out of range; the classes are 0 to {len(classes) - 1}")
    return [classes[value] for value in values]


def listed(names: Iterable[str]) -> str:
    """Return at most six of the names, in quotes, for an error message."""
    names = sorted(names)
    return (", ".join(shown(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")) or "nothing"
