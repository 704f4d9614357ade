"""The two sides of a comparison for drift: rows of a prediction log, and what the model was trained on.

Images are measured on the pixels that the network takes, by both sides, so that they compare although training images
are kept resized. What depends on the model (label, confidence, and the size of those pixels) is compared for one
version at a time.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.monitoring.drift import Limits, Report, Sample, compare
from darkroom.monitoring.log import COLUMNS, read
from darkroom.monitoring.measures import FEATURES, features

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TRAINING_IMAGES = 20_000  # that are measured, evenly spread; 0.2 s at 28x28 pixels, 10 s at 224x224
BATCH = 256  # images in memory at a time


@dataclass(frozen=True)
class Comparison:
    """A report of drift, with the samples it is of, the version whose answers were compared, and remarks."""

    report: Report
    reference: Sample
    window: Sample
    version: str | None
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without the samples."""
        return {**self.report.as_dict(), "version": self.version, "notes": self.notes}


def inspect(
    log: Path,
    *,
    root: Path,
    package_of: Callable[[str], Any],
    version: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    reference: Path | None = None,
    limits: Limits | None = None,
) -> Comparison:
    """Return how a window of a prediction log differs from the training data.

    Args:
        log: the directory that `darkroom batch --log` or `darkroom serve --log` writes.
        root: the repository, for data/prepared and reports.
        package_of: gives the Package of a version by its number, such as versions.load(versions.find(...)): the size
            of its network's input is the one to measure at. It is not asked where `reference` is given.
        version: whose answers to compare; None: the last that answered in the window.
        since, until: see read.
        reference: a parquet file or directory with columns of the log, such as the log of a good month, instead of the
            training data.

    Raises:
        DataError: the log or the reference does not exist.
        RegistryError: from package_of.
    """
    rows = read(log, since, until)
    if version is None and rows.num_rows:
        version = rows["version"][-1].as_py()
    notes = []
    of_version = rows.filter(_equal(rows["version"], version)) if version else rows
    if others := rows.num_rows - of_version.num_rows:
        notes.append(f"{others} rows of versions other than {version} are ignored.")
    window = logged_sample(of_version)
    if reference:
        before = stored_sample(reference)
    else:
        dataset = Dataset.open(root / "data" / "prepared")
        before = training_sample(dataset, package=package_of(version) if version else None)
        confidence, why = test_confidence(root / "reports", version=version)
        if confidence is not None:
            before = Sample({**before.measures, "confidence": confidence}, before.labels)
        else:
            notes.append(f"confidence is not compared: {why}.")
    return Comparison(compare(before, window, limits=limits), before, window, version, notes)


def logged_sample(table: "pa.Table") -> Sample:
    """Return rows with columns of the prediction log as a sample; of the columns that are missing there is nothing."""
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "label"}
    measures = {name: columns[name] for name in (*FEATURES, "confidence") if name in columns}
    if {"width", "height"} <= columns.keys():
        size = _size(columns["width"], columns["height"])
        measures["size"] = size[np.isfinite(size)]  # an image whose header was not understood has none
    labels = table["label"].to_pylist() if "label" in table.column_names else []
    return Sample(measures, np.array(labels, dtype=str))


def stored_sample(path: Path) -> Sample:
    """Return the sample of a parquet file, or of all in a directory, with columns of the prediction log.

    Raises:
        DataError: it cannot be read, or has none of these columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]
    try:
        table = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a reference: {str(error).splitlines()[0]}") from None
    sample = logged_sample(table.select([name for name in COLUMNS if name in table.column_names]))
    if not sample.measures and not len(sample.labels):
        raise DataError(f"{path} has no columns to compare; expected some of {', '.join(COLUMNS)}")
    return sample


def training_sample(dataset: Dataset, *, package: Any = None, max_images: int = MAX_TRAINING_IMAGES) -> Sample:
    """Return the sample of the training images, with their true classes.

    Args:
        package: of the model whose answers are compared; where its network eats images of another size or colour mode
            than the prepared ones, they are converted as it would. None: they are measured as they are.
        max_images: take only so many, evenly spread.
    """
    rows = dataset.rows("train")
    if len(rows) > max_images:
        rows = rows[np.linspace(0, len(rows) - 1, max_images).astype(int)]
    shape = dataset.image_shape if package is None else tuple(package.image_shape)
    values = np.empty((len(rows), len(FEATURES)))
    for start in range(0, len(rows), BATCH):
        for position, image in enumerate(dataset.images[rows[start : start + BATCH]], start):
            eaten = image if image.shape == shape else package.image(image)
            values[position] = [*features(eaten).values()]
    measures = dict(zip(FEATURES, values.T, strict=True))
    index = dataset.index()
    if {"width", "height"} <= set(index.columns):
        measures["size"] = _size(*(index[name].to_numpy()[rows] for name in ("width", "height")))
    return Sample(measures, np.array(dataset.classes, dtype=str)[dataset.labels[rows]])


def test_confidence(reports: Path, *, version: str | None) -> tuple[np.ndarray | None, str]:
    """Return the confidence of a version on the test images, float (n,); or None, and why there is nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        recorded = json.loads((reports / "promotion.json").read_text(encoding="utf-8"))["version"]
        winner = json.loads((reports / "evaluation.json").read_text(encoding="utf-8"))["winner"]
        filters = [("candidate", "=", winner)]
        table = pq.read_table(reports / "predictions.parquet", columns=["probabilities"], filters=filters)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None, f"{reports} has no predictions for the test images"
    if version is None or str(recorded) != version:
        return (
            None,
            f"{reports / 'predictions.parquet'} holds version {recorded}, the window version {version or 'none'}",
        )
    return np.array(table["probabilities"].to_pylist()).max(axis=1), ""


def _size(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Return the edge, in pixels, of a square of the same area: the same however an image was turned by its EXIF."""
    edge: np.ndarray = np.sqrt(width.astype(float) * height)
    return edge


def _equal(column: Any, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.equal(column, value)
