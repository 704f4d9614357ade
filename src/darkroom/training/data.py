"""The data of a training: images or features, with labels, classes and validation data, and parts of them."""

import dataclasses
from typing import Any, TypeVar

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.data.arrays.selection import Selection


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and validation data: images uint8 (n, H, W, C), or features float32 (n, D).

    Attributes:
        official_val: whether the dataset has a validation set of its own. It may differ from the training images on
            purpose, by its persons or cameras, so nothing is fitted to it.
    """

    images: Any
    labels: np.ndarray
    val_images: Any
    val_labels: np.ndarray
    classes: list[str]
    official_val: bool = dataclasses.field(default=False, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Vectors(Data):
    """Features in place of images.

    Attributes:
        groups: int64 (n,), of the training images: near-duplicates and the copies of an image share a number.
        is_copy: bool (n,), of the training images.
        val_groups: int64, of the validation images.
    """

    groups: np.ndarray
    is_copy: np.ndarray
    val_groups: np.ndarray


DataOrVectors = TypeVar("DataOrVectors", bound=Data)


def pictures(prepared: Dataset, augmented: Dataset | None) -> Data:
    """Return the prepared images, with the augmented copies, if any, after those of the training split."""
    datasets = [prepared] if augmented is None else [prepared, augmented]
    rows, val_rows = [dataset.rows("train") for dataset in datasets], prepared.rows("val")
    return Data(
        images=Selection([(dataset.images, chosen) for dataset, chosen in zip(datasets, rows, strict=True)]),
        labels=np.concatenate([dataset.labels[chosen] for dataset, chosen in zip(datasets, rows, strict=True)]),
        val_images=Selection([(prepared.images, val_rows)]),
        val_labels=prepared.labels[val_rows],
        classes=list(prepared.classes),
        official_val=prepared.manifest.get("official_val", False),
    )


def with_val(data: Data, chosen: np.ndarray) -> Data:
    """Return the data with only these validation images: (n,), bool."""
    rows = np.flatnonzero(chosen)
    images = Selection([(data.val_images, rows)])
    return dataclasses.replace(data, val_images=images, val_labels=data.val_labels[rows])


def vectors(features: Features, data: Data) -> Vectors:
    """Return the features that `embed` computed of the images of data."""
    (images, labels), (val_images, val_labels) = features.arrays("train"), features.arrays("val")
    is_copy, _, groups = features.rows("train").T
    val_groups, official = features.rows("val")[:, 2], data.official_val
    return Vectors(
        images, labels, val_images, val_labels, data.classes, groups, is_copy == 1, val_groups, official_val=official
    )


def part(data: DataOrVectors, fraction: float, *, seed: int) -> DataOrVectors:
    """Return the data with a fraction of the training images of each class, and all validation images.

    Args:
        fraction: above 0, at most 1; each class keeps at least one image.
        seed: of the choice.
    """
    if fraction == 1:
        return data
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(data.labels == label) for label in np.unique(data.labels)]
    chosen = [rng.permutation(rows)[: share_of_class(fraction, len(rows))] for rows in members]
    rows = np.sort(np.concatenate(chosen))
    smaller = dataclasses.replace(data, images=Selection([(data.images, rows)]), labels=data.labels[rows])
    if isinstance(smaller, Vectors):
        return dataclasses.replace(smaller, groups=smaller.groups[rows], is_copy=smaller.is_copy[rows])
    return smaller


def share_of_class(fraction: float, n_images: int) -> int:
    """Return the number of images of a fraction of a class, at least one."""
    return max(1, round(fraction * n_images))
