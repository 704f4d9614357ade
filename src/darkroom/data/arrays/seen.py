"""Short ids of the images that a model was trained and tuned on, and the val images that are set aside."""

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
    """Return short ids of the train and val images of a dataset: uint64 (m,), ascending, unique.

    They are the first 8 bytes of the ids of images and of their groups of near-duplicates. The probability that two of
    ten million images have the same short id by chance is 3e-6.
    """
    index = dataset.index()
    return np.unique(np.concatenate(_short_ids(index[index["split"].isin(["train", "val"])])))


def is_seen(index: "pd.DataFrame", seen: np.ndarray) -> np.ndarray:
    """Return a mask of the images that are, or resemble, an image in `seen`: (n,), bool.

    Args:
        index: lines of a dataset's index.
        seen: returned by seen_ids, for any dataset.
    """
    ids, groups = _short_ids(index)
    found: np.ndarray = np.isin(ids, seen) | np.isin(groups, seen)
    return found


def set_aside(dataset: Dataset) -> np.ndarray:
    """Return a mask of the val images that are set aside for calibration, about half: (n,), bool, as rows("val").

    The hash of a group decides, so added images move no others. If it would set aside all groups or none, one is moved
    to the other side; a single group is not set aside.
    """
    index = dataset.index()
    groups = index["group"].to_numpy()[dataset.rows("val")]
    hashes = {group: hashlib.sha256(f"calibration:{group}".encode()).digest() for group in groups}
    aside = {group for group, found in hashes.items() if found[0] % 2 == 0}
    if len(hashes) < 2:
        aside = set()
    elif len(aside) in (0, len(hashes)):
        aside ^= {min(hashes, key=hashes.__getitem__)}
    return np.array([group in aside for group in groups], bool)


def one_of_each_group(dataset: Dataset) -> np.ndarray:
    """Return a mask of the val images that have the smallest id, a hash, of their group: (n,), bool, as rows("val")."""
    index = dataset.index().iloc[dataset.rows("val")]
    first: np.ndarray = ~index.sort_values("id")["group"].duplicated().sort_index().to_numpy()
    return first


def write_seen_ids(path: Path, seen: np.ndarray) -> None:
    """Write the result of seen_ids, 8 bytes per image."""
    with write_errors(path), replacing(path) as part:
        np.save(part, seen, allow_pickle=False)


def read_seen_ids(path: Path) -> np.ndarray:
    """Read a file of write_seen_ids.

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
