"""Two registered versions on the same test images, now."""

from pathlib import Path
from typing import Any

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.promotion import paired
from darkroom.promotion.scoring import answer
from darkroom.registry.versions import Version, load


def compare_versions(a: Version, b: Version, *, data: Path) -> dict[str, Any]:
    """Return what `paired.compare` says of two versions, each asked through its own package, and what was compared.

    Args:
        data: the directory of the prepared data, whose test split is used.

    Returns:
        the keys of `paired.compare`, and model, a, b (versions), data (the digest of the data).

    Raises:
        DataError: the data is incomplete or has no test images.
        RegistryError: a version cannot be loaded, or not answer.
    """
    dataset = Dataset.open(data)
    rows = dataset.rows("test")
    if len(rows) == 0:
        raise DataError(f"{data} has no test images; set preprocess.test_fraction above 0")
    labels = np.array(dataset.classes, dtype=str)[dataset.labels[rows]]
    correct = [answer(version, load(version), dataset, rows) == labels for version in (a, b)]
    found = paired.compare(correct[0], correct[1], labels)
    return {"model": a.name, "a": a.version, "b": b.version, "data": dataset.manifest["digest"], **found}
