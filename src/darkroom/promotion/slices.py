"""Slices of the test images, such as dark ones or those of one camera, in which an average may hide a loss. Pure.

The attributes for slicing:

    brightness      mean of the prepared pixels, 0 to 255; cut at the terciles of the test images
    size            height times width of the original, in pixels; cut at the terciles
    source          the directories inside the class directory, for example cameras or sites
    incoming        whether the image is from data/incoming
    any other name  that column of the label table, by value; numbers with more than ten values are cut at the terciles
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import dropwhile, pairwise
from typing import NamedTuple

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.promotion.scoring import BATCH

OWN = ("brightness", "size", "source", "incoming")
MOST_VALUES = 10  # columns of numbers with up to so many values are treated as names


class Slice(NamedTuple):
    """A slice: its name, and the mask of its test images: (n,), bool."""

    name: str
    members: np.ndarray


def slices_by(attributes: Mapping[str, np.ndarray]) -> list[Slice]:
    """Return the slices by all attributes, in their order.

    An attribute with the same value for all images gives no slice, because it would be the whole test set.

    Args:
        attributes: arrays (n,) by name: bool for incoming, str for names; numbers are cut at their terciles.
    """
    found: list[Slice] = []
    for name, values in attributes.items():
        of_one = _by_value(name, values) if values.dtype.kind in "bUO" else _by_tercile(name, values)
        found += of_one if len(of_one) > 1 else []
    return found


def source_folder(source: str, label: str) -> str:
    """Return the directories of an image between its class directory and its file, "" if there is none.

    "train/dog/kitchen/7.jpg" of the class dog lies in "kitchen", "dog/7.jpg" and the packed image "00007" in none.
    """
    folders = source.removeprefix("incoming/").split("/")[:-1]
    return "/".join(folders[folders.index(label) + 1 :]) if label in folders else ""


def source_folders(sources: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return `source_folder` of every image: (n,), str."""
    return np.array([source_folder(*image) for image in zip(sources, labels, strict=True)], dtype=str)


def brightness(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return the mean of all pixels of each of these images, 0 to 255: (n,), float."""
    parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    return np.concatenate([dataset.images[part].mean(axis=(1, 2, 3)) for part in parts])


def test_slices(dataset: Dataset, rows: np.ndarray, *, by: Sequence[str]) -> list[Slice]:
    """Return the slices of these images by the named attributes; see slices.py.

    Raises:
        DataError: the index has no column for an attribute.
    """
    index = dataset.index().iloc[rows]
    of_table = list(dropwhile(lambda column: column != "incoming", index.columns))[1:]  # appended by preprocess
    needed = {"brightness": (), "size": ("height", "width")}
    for name in by:
        if missing := sorted(set(needed.get(name, (name,))) - set(index.columns)):
            choice = f"{', '.join(OWN)}, or a column of the label table: {', '.join(of_table) or 'it has no others'}"
            remedy = f"correct promote.gates.slice_accuracy.by ({choice})"
            raise DataError(
                f"{dataset.directory}: the index has no column {missing[0]!r}, so the test set cannot be sliced by "
                f"{name}; {'run `dvc repro preprocess`' if name in OWN else remedy}"
            )
    values: dict[str, Callable[[], np.ndarray]] = {
        "brightness": lambda: brightness(dataset, rows),
        "size": lambda: index["height"].to_numpy(np.int64) * index["width"].to_numpy(np.int64),
        "source": lambda: source_folders(index["source"].tolist(), index["label"].tolist()),
        "incoming": lambda: index["incoming"].to_numpy(bool),
    }
    return slices_by({name: values[name]() if name in values else _column(index[name].tolist()) for name in by})


def _column(texts: Sequence[str]) -> np.ndarray:
    """Return a column of a label table: (n,), float for numbers with many values, else str."""
    if len(set(texts)) > MOST_VALUES:
        with suppress(ValueError):
            numbers = np.array(texts, dtype=float)
            return numbers if np.isfinite(numbers).all() else np.array(texts, dtype=str)
    return np.array(texts, dtype=str)


def _by_value(name: str, values: np.ndarray) -> list[Slice]:
    if values.dtype.kind == "b":
        return [Slice(name if value else "original", values == value) for value in np.unique(values)]
    empty = "(no directory)" if name == "source" else "(empty)"
    return [Slice(f"{name} {value or empty}", values == value) for value in np.unique(values)]


def _by_tercile(name: str, values: np.ndarray) -> list[Slice]:
    """Return up to three slices; fewer if so many images share a value that a tercile is empty."""
    below_highest = np.unique(values)[-2:][0]  # a cut above it would leave nothing on the other side
    edges = np.unique(np.minimum(np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf"), below_highest))
    bins = np.searchsorted(edges, values, side="left")  # (a, b]: the same value is always in the same slice
    shown = [f"{edge:,}" if isinstance(edge, int) else f"{edge:.4g}" for edge in edges.tolist()]
    names = [
        f"up to {shown[0]}",
        *(f"above {low}, up to {high}" for low, high in pairwise(shown)),
        f"above {shown[-1]}",
    ]
    return [Slice(f"{name} {names[bin_]}", bins == bin_) for bin_ in np.unique(bins)]
