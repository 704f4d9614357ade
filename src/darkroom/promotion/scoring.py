"""Predictions of models on the test set, and its slices.

The candidate's predictions were recorded by evaluate; the champion is asked again.
"""

from typing import Any

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import RegistryError
from darkroom.registry.snapshot import Version

BATCH = 256  # images held in memory at a time


def answer(version: Version, package: Any, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return the class names that a version predicts for these rows: (n,), str; see `probabilities`."""
    return np.array(package.classes, dtype=str)[probabilities(version, package, dataset, rows).argmax(axis=1)]


def probabilities(version: Version, package: Any, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return what a version answers on these rows: (n, its classes), float.

    A model of another input size or colour mode gets the prepared images through its own conversion.

    Args:
        package: of the version, loaded.

    Raises:
        RegistryError: it fails; whatever the registered code raises.
    """
    found = []
    for start in range(0, len(rows), BATCH):
        images = dataset.images[rows[start : start + BATCH]]
        try:
            if images.shape[1:] != tuple(package.image_shape):
                images = np.stack([package.image(image) for image in images])
            found.append(package.probabilities(images))
        except Exception as error:
            message = f"{version.name} version {version.version} cannot be scored: {type(error).__name__}: {error}"
            raise RegistryError(message) from error
    return np.concatenate(found)
