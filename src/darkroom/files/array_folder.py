"""A stage's folder of arrays, read back: its manifest and its .npy files; incomplete ones are refused."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.errors import DataError

MANIFEST = "manifest.json"


def read_manifest(directory: Path, *, keys: Collection[str], stage: str) -> dict[str, Any]:
    """Return what manifest.json in directory says.

    Args:
        keys: which it must have at least.
        stage: that writes it, named in errors.

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
        DataError: the file is missing, cut short, too long, or of another type or shape.
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


def not_whole(directory: Path, why: str, *, stage: str) -> DataError:
    """Return the error that says why a directory cannot be used, and which stage writes it again."""
    return DataError(f"{directory} is incomplete: {why}; run `dvc repro {stage}`")
