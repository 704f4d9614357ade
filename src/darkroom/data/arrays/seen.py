"""The images that a model has seen in training and tuning, as short ids, and those that no choice may depend on."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.files.writing import replacing, write_errors

if TYPE_CHECKING:
    import pandas as pd

SEEN_FILE = "seen_ids.npy"  # beside model.onnx


def seen_ids(dataset: Dataset) -> np.ndarray:
    """Return what stands for the train and val images of a dataset: uint64 (m,), ascending, no two alike.

    These are the first 8 bytes of their ids, and of the ids by which their groups of near-duplicates are known. Among
    ten million images, the probability that two share them by chance is 3e-6.
    """
    index = dataset.index()
    return np.unique(np.concatenate(_short_ids(index[index["split"].isin(["train", "val"])])))


def is_seen(index: "pd.DataFrame", seen: np.ndarray) -> np.ndarray:
    """Return which images, or near-duplicates of which, are among `seen`: (n,), bool.

    Args:
        index: lines of a dataset's index.
        seen: what seen_ids returned, of whatever dataset.
    """
    ids, groups = _short_ids(index)
    found: np.ndarray = np.isin(ids, seen) | np.isin(groups, seen)
    return found


def set_aside(dataset: Dataset) -> np.ndarray:
    """Return which of the val images are set aside for calibration, about half of them: (n,), bool, as rows("val").

    It is decided by the content of an image, or of its group of near-duplicates: added images move none.
    """
    index = dataset.index()
    groups = index["group"].to_numpy()[dataset.rows("val")]
    return np.array([hashlib.sha256(f"calibration:{group}".encode()).digest()[0] % 2 == 0 for group in groups], bool)


def write_seen_ids(path: Path, seen: np.ndarray) -> None:
    """Write what seen_ids returned: 8 bytes each."""
    with write_errors(path), replacing(path) as part:
        np.save(part, seen, allow_pickle=False)


def read_seen_ids(path: Path) -> np.ndarray:
    """Return what write_seen_ids wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        seen: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); run `dvc repro train`") from None
    if seen.dtype != np.uint64 or seen.ndim != 1:
        raise DataError(f"{path} is {seen.dtype} {seen.shape}, expected uint64 (n,); run `dvc repro train`")
    return seen


def _short_ids(index: "pd.DataFrame") -> tuple[np.ndarray, np.ndarray]:
    """Return the first 8 bytes of each image's id and of its group's: uint64 (n,) twice."""
    ids, groups = (
        np.frombuffer(bytes.fromhex("".join(name[:16] for name in index[column])), ">u8").astype(np.uint64)
        for column in ("id", "group")
    )
    return ids, groups
