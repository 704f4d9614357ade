"""Compare two registered versions on the same test images."""

from pathlib import Path
from typing import Any

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.seen import is_seen
from darkroom.errors import DataError
from darkroom.evaluation.metrics import paired
from darkroom.promotion.answers import Answers
from darkroom.promotion.scoring import loaded, probabilities, seen_by
from darkroom.registry.versions import Version


def compare_versions(a: Version, b: Version, *, data: Path) -> dict[str, Any]:
    """Compare two versions, each through its own package, by `paired.compare`.

    Args:
        data: the directory of the prepared data, whose test split is used; raw and incoming, the directories of the
            originals, are beside it.

    Returns:
        the keys of `paired.compare`, and model, a, b (versions), data (the digest of the data), n_left_out (number of
        test images on which one of the versions was trained or tuned), unknown (versions whose training images are
        unknown).

    Raises:
        DataError: the data is incomplete or has no test images, a version was trained on all of them, or a required
            original is gone or has changed.
        RegistryError: a version cannot be loaded, or fails.
    """
    dataset = Dataset.open(data)
    rows = dataset.rows("test")
    if len(rows) == 0:
        raise DataError(f"{data} has no test images; set preprocess.test_fraction above 0")
    seen = {version.version: seen_by(version) for version in (a, b)}
    known = [ids for ids in seen.values() if ids is not None]
    n_test = len(rows)
    if known:
        rows = rows[~is_seen(dataset.index().iloc[rows], np.concatenate(known))]
    if len(rows) == 0:
        raise DataError(f"versions {a.version} and {b.version} were trained or tuned on all {n_test} test images")
    labels = np.array(dataset.classes, dtype=str)[dataset.labels[rows]]
    correct = [_correct(version, dataset, rows, labels=labels) for version in (a, b)]
    found = paired.compare(correct[0], correct[1], labels)
    return {
        "model": a.name,
        "a": a.version,
        "b": b.version,
        "data": dataset.manifest["digest"],
        "n_left_out": n_test - len(rows),
        "unknown": [version for version, ids in seen.items() if ids is None],
        **found,
    }


def _correct(version: Version, dataset: Dataset, rows: np.ndarray, *, labels: np.ndarray) -> np.ndarray:
    package, directory = loaded(version), dataset.directory
    places = {"raw": directory.with_name("raw"), "incoming": directory.with_name("incoming")}
    found = probabilities(version, package, dataset, rows, **places)
    return Answers.of(found, classes=package.classes, labels=labels).correct
