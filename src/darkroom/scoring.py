"""What models answer on the frozen test images, and how these are sliced.

The candidate's predictions were recorded by evaluate; the champion is asked again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.dataset import Dataset
from darkroom.errors import DataError, RegistryError
from darkroom.registered import Version
from darkroom.slices import Slice, slices_by, source_folders

BATCH = 256  # images held in memory at a time


@dataclass(frozen=True)
class Predictions:
    """The answers of one model: per test image its id, true and predicted class name, and the probabilities.

    Attributes:
        ids, labels, predicted: (n,), str.
        probabilities: (n, classes), float.
    """

    ids: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(n,), bool."""
        return np.asarray(self.predicted == self.labels)


def read_predictions(path: Path, candidate: str) -> Predictions:
    """Return the candidate's rows of predictions.parquet.

    Raises:
        DataError: the file is missing or not what evaluate writes, or has no row of this candidate.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["id", "label", "predicted", "probabilities"]
    try:
        table = pq.read_table(path, columns=columns, filters=[("candidate", "=", candidate)])
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read: {first}; run `dvc repro --force evaluate`") from None
    if table.num_rows == 0:
        raise DataError(f"{path} has no predictions of the candidate {candidate!r}; run `dvc repro --force evaluate`")
    ids, labels, predicted = (np.array(table[name].to_pylist(), dtype=str) for name in columns[:3])
    return Predictions(ids, labels, predicted, np.array(table["probabilities"].to_pylist()))


def test_rows(dataset: Dataset, ids: np.ndarray) -> np.ndarray:
    """Return the row numbers of the test images with these ids, in this order.

    Raises:
        DataError: an id is not one of the test images: the data have changed since the evaluation.
    """
    index = dataset.index()
    test = index[index["split"] == "test"]
    rows = dict(zip(test["id"], test["row"], strict=True))
    if unknown := [image for image in ids.tolist() if image not in rows]:
        raise DataError(
            f"{len(unknown)} of {len(ids)} evaluated images are not test images of {dataset.directory} (first: "
            f"{unknown[0][:16]}...); the data have changed, run `dvc repro evaluate`"
        )
    return np.array([rows[image] for image in ids.tolist()])


def answer(version: Version, package: Any, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return the class names that a version predicts for these rows: (n,), str.

    A model of another input size or colour mode gets the prepared images through its own conversion.

    Args:
        package: of the version, loaded.

    Raises:
        RegistryError: it fails; whatever the registered code raises.
    """
    names = np.array(package.classes, dtype=str)
    predicted = []
    for start in range(0, len(rows), BATCH):
        images = dataset.images[rows[start : start + BATCH]]
        try:
            if images.shape[1:] != tuple(package.image_shape):
                images = np.stack([package.image(image) for image in images])
            predicted.append(names[package.probabilities(images).argmax(axis=1)])
        except Exception as error:
            message = f"{version.name} version {version.version} cannot be scored: {type(error).__name__}: {error}"
            raise RegistryError(message) from error
    return np.concatenate(predicted)


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
    needed = {"size": ("height", "width"), "source": ("source",), "incoming": ("incoming",)}
    for name in by:
        if missing := sorted(set(needed.get(name, ())) - set(index.columns)):
            raise DataError(
                f"{dataset.directory}: the index has no column {missing[0]!r}, so the test images cannot be sliced by "
                f"{name}; run `dvc repro --force preprocess`, or take it out of promote.gates.slice_accuracy.by"
            )
    values: dict[str, Callable[[], np.ndarray]] = {
        "brightness": lambda: brightness(dataset, rows),
        "size": lambda: index["height"].to_numpy(np.int64) * index["width"].to_numpy(np.int64),
        "source": lambda: source_folders(index["source"].tolist(), index["label"].tolist()),
        "incoming": lambda: index["incoming"].to_numpy(bool),
    }
    return slices_by({name: values[name]() for name in by})
