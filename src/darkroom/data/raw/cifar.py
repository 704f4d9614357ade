"""Read the batches of CIFAR-10 and CIFAR-100 as published: pickles or binary records, in a tar or as files."""

import io
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.data.raw.idx_npz import Block, class_names, listed
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.project.text import shown

CIFAR_NAME = re.compile(r"(?P<batch>data_batch_(?P<number>\d+)|train|test_batch|test)(?P<binary>\.bin)?$")
CIFAR_CLASSES = re.compile(r"(batches\.)?meta$|(batches\.meta|fine_label_names)\.txt$")


def cifar_blocks(paths: Sequence[Path], *, classes: Sequence[str] | None, max_archive_bytes: int) -> Iterator[Block]:
    """Yield the batches of CIFAR-10 or CIFAR-100 (fine labels), one block each: train in order of number, then test.

    Both versions are supported, "python" (pickles, through an unpickler that builds only lists and byte arrays) and
    "binary", from the published tar or from its files. Reading a batch of 10,000 images takes about 100 MB.

    Raises:
        DataError: no batch, a pickle that holds anything else, truncated, damaged or too big, or an unknown label.
    """
    with _opened(paths, max_archive_bytes=max_archive_bytes) as (where, readers):
        batches = [(match, name) for name in readers if (match := CIFAR_NAME.match(name))]
        if not batches:
            raise DataError(f"{where}: expected batches (data_batch_1, ..., test_batch), found {listed(readers)}")
        batches.sort(key=lambda item: (item[0]["batch"].startswith("test"), int(item[0]["number"] or 0), item[1]))
        if classes is None:
            classes = _cifar_classes(readers, where)
        for match, name in batches:
            data, called = readers[name](), f"{where}: batch {shown(name)}"
            if match["binary"]:
                n_labels = 1 if "batch" in name else 2  # CIFAR-100 has train.bin and test.bin
                pixels, labels = _binary_batch(data, called, n_labels=n_labels)
            else:
                pixels, labels = _pickled_batch(data, called)
            images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            split = "test" if match["batch"].startswith("test") else "train"
            yield Block(split, class_names(labels, classes, where), images)


@contextmanager
def _opened(paths: Sequence[Path], *, max_archive_bytes: int) -> Iterator[tuple[Path, dict[str, Callable[[], bytes]]]]:
    """Yield where the files are, and a reader for each name: the members of the only archive, or the files."""
    if len(paths) == 1 and not CIFAR_NAME.match(paths[0].name):
        with open_archive(paths[0], max_archive_bytes=max_archive_bytes) as archive:
            files = [entry for entry in archive.entries if not entry.is_dir]
            yield paths[0], {entry.name.rpartition("/")[2]: partial(archive.read, entry) for entry in files}
        return
    n_bytes = sum(path.stat().st_size for path in paths)
    if n_bytes > max_archive_bytes:
        raise DataError(
            f"{paths[0].parent}: the batches hold {n_bytes:,} bytes, more than preprocess.max_archive_bytes"
        )
    yield paths[0].parent, {path.name: path.read_bytes for path in paths}


def _cifar_classes(readers: dict[str, Callable[[], bytes]], where: Path) -> list[str] | None:
    for name in sorted(readers):
        if CIFAR_CLASSES.match(name):
            data = readers[name]()
            if name.endswith(".txt"):
                try:
                    return [line.strip() for line in data.decode().splitlines() if line.strip()]
                except UnicodeDecodeError:
                    raise DataError(f"{where}: {shown(name)} is damaged (not UTF-8); download it again") from None
            values = _unpickled(data, f"{where}: {shown(name)}")
            names = values.get("label_names", values.get("fine_label_names"))
            if isinstance(names, list) and all(isinstance(item, bytes | str) for item in names):
                return [_text(item) for item in names]
            raise DataError(f"{where}: {shown(name)} lists no label_names; give `classes` in the layout")
    return None


def _binary_batch(data: bytes, where: str, *, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Each record is one label byte (CIFAR-100: coarse, then fine) and 3,072 bytes of pixels, plane by plane."""
    if not data or len(data) % (n_labels + 3072):
        raise DataError(f"{where} has {len(data):,} bytes, expected records of {n_labels + 3072}; it is truncated")
    records = np.frombuffer(data, np.uint8).reshape(-1, n_labels + 3072)
    return records[:, n_labels:], records[:, n_labels - 1]


def _pickled_batch(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    values = _unpickled(data, where)
    pixels, labels = values.get("data"), values.get("labels", values.get("fine_labels"))
    if not isinstance(pixels, _Pixels) or not isinstance(labels, list) or pixels.array.shape != (len(labels), 3072):
        raise DataError(f"{where}: expected `data`, (n, 3072) uint8, and a list of n `labels`, found {listed(values)}")
    if not all(isinstance(label, int) for label in labels):
        raise DataError(f"{where}: expected integer labels")
    return pixels.array, np.array(labels, np.int64)


def _unpickled(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{where} is truncated or not a pickle ({error}); download it again") from None
    except Exception as error:  # a damaged pickle can raise nearly anything, from KeyError to MemoryError
        raise DataError(f"{where} is damaged ({type(error).__name__}: {error}); download it again") from None
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a dict, found {type(values).__name__}")
    return {_text(key): value for key, value in values.items() if isinstance(key, bytes | str)}


class _Unpickler(pickle.Unpickler):
    """Allows only the globals of arrays of bytes, and replaces them by functions of this module.

    Not even numpy's own functions are called, because a pickled dtype or array can be crafted to overwrite memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _Pixels.empty,
            ("numpy.core.numeric", "_frombuffer"): _Pixels.from_buffer,
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise DataError(
                f"the pickle references {module}.{name}, but only byte arrays are read; do not trust this file"
            )
        return allowed[module, name]


class _Dtype:
    """Stands for numpy.dtype; allows only unsigned bytes."""

    def __init__(self, code: bytes | str, *_: object) -> None:
        if _text(code) != "u1":
            raise DataError(f"the pickle holds an array of {_text(code)!r}, expected unsigned bytes (u1)")

    def __setstate__(self, state: object) -> None:
        pass  # byte order etc., meaningless for single bytes


class _Pixels:
    """Stands for a pickled numpy array; `array` is the real one."""

    array: np.ndarray = np.empty(0, np.uint8)

    @classmethod
    def empty(cls, *_: object) -> "_Pixels":
        return cls()

    @classmethod
    def from_buffer(cls, buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> "_Pixels":
        pixels = cls()
        pixels.__setstate__((1, shape, dtype, order == "F", buffer))
        return pixels

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype):
            raise DataError("the pickle holds an array without a type")
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran_order else "C")


def _latin1(text: str, encoding: str) -> bytes:
    """Return the bytes that Python 3 writes as text in the pickle protocols of Python 2."""
    if _text(encoding) != "latin1":
        raise DataError(f"the pickle uses the encoding {encoding!r}, expected latin1")
    return text.encode("latin1")


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
