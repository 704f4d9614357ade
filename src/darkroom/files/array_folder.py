"""A stage's directory of arrays: the manifest is written last, and an incomplete directory is refused."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from darkroom.errors import DataError
from darkroom.files.writing import write_errors

MANIFEST = "manifest.json"


def read_manifest(directory: Path, *, keys: Collection[str], stage: str) -> dict[str, Any]:
    """Return the contents of manifest.json in directory.

    Args:
        keys: required keys.
        stage: the stage that writes it, for errors.

    Raises:
        DataError: it is missing, damaged, or lacks a key.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not directory.exists():
            raise DataError(f"{directory} does not exist yet; run `dvc repro {stage}`") from None
        raise not_whole(directory, f"no {MANIFEST}", stage=stage) from None
    except (OSError, ValueError) as error:
        raise not_whole(directory, f"{MANIFEST}: {error}", stage=stage) from None
    if not isinstance(manifest, dict) or not manifest.keys() >= set(keys):
        raise not_whole(directory, f"{MANIFEST} lacks some of the keys {', '.join(sorted(keys))}", stage=stage)
    return manifest


def load_array(path: Path, dtype: type, shape: tuple[int, ...], *, stage: str, mmap: bool = False) -> np.ndarray:
    """Return the array of a .npy file; with mmap it stays on disk.

    Raises:
        DataError: the file is missing, truncated, too long, or of another type or shape.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise not_whole(path.parent, f"{path.name}: {error}", stage=stage) from None
    if array.dtype != dtype or array.shape != shape:
        found = f"{path.name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        raise not_whole(path.parent, found, stage=stage)
    if isinstance(array, np.memmap) and path.stat().st_size != array.offset + array.nbytes:
        raise not_whole(path.parent, f"{path.name} is longer than {array.shape[0]} rows", stage=stage)
    return array


def npy_header(shape: tuple[int, ...], descr: str) -> bytes:
    """Return the .npy header of an array in C order; numpy pads it, so its length does not depend on the row count.

    Args:
        descr: the dtype as .npy files name it, such as "|u1".
    """
    buffer = BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


class FolderWriter:
    """Write the files of a directory; used as a context manager, it removes what it wrote unless `_finished` is set.

    Args:
        directory: made if it does not exist.
        old: files of an earlier result, which are removed first, the manifest before the others, so that a killed run
            does not leave an old manifest beside new arrays.

    Raises:
        DataError: (from every method) a file cannot be written, for example because the disk is full.
    """

    def __init__(self, directory: Path, *, old: Iterable[Path]) -> None:
        self.directory = directory
        self._written: list[Path] = []
        self._finished = False
        with write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            for path in (directory / MANIFEST, *old):
                path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._finished:
            for path in self._written:
                path.unlink(missing_ok=True)

    @contextmanager
    def _new_file(self, name: str) -> Iterator[Path]:
        path = self.directory / name
        self._written.append(path)
        with write_errors(path):
            path.unlink(missing_ok=True)  # it may be a link to DVC's cache
            yield path


def not_whole(directory: Path, why: str, *, stage: str) -> DataError:
    """Return the error that says why a directory cannot be used and which stage recreates it."""
    return DataError(f"{directory} is incomplete: {why}; run `dvc repro {stage}`")
