"""The two sides of a drift comparison: rows of a prediction log, and the training images.

Both sides are measured on the pixels of the network's input, so that they are comparable although training images are
stored resized. Everything that depends on the model (label, confidence, familiarity, and the size of those pixels) is
compared for one version at a time. Each image counts once, because repeated images are health checks, not traffic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.monitoring.accuracy import ServedAccuracy, served_accuracy
from darkroom.monitoring.drift import Limits, Report, Sample, compare
from darkroom.monitoring.feedback import read_feedback
from darkroom.monitoring.log import COLUMNS, read
from darkroom.monitoring.measures import FEATURES, features

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TRAINING_IMAGES = 20_000  # measured, evenly spread; 0.2 s at 28x28 pixels, 10 s at 224x224
MAX_TEST_IMAGES = 4_000  # classified by the version, evenly spread; 0.3 s at 28x28 pixels, 8 s at 224x224
SHOWN_CLASSES = 10  # in a note
BATCH = 256  # images in memory at a time
NETWORK_BATCH = 16  # images per inference; large images are slower in large batches


@dataclass(frozen=True)
class Comparison:
    """A report of drift.

    Attributes:
        reference, window: the samples that were compared.
        version: whose answers were compared; None if there are none.
        data: digest of data/prepared; None if the reference is another.
        served: the accuracy of served predictions, for every version in the window.
        notes: remarks.
    """

    report: Report
    reference: Sample
    window: Sample
    version: str | None
    data: str | None
    served: ServedAccuracy
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a dict for JSON, without the samples."""
        served = self.served.as_dict()
        return {**self.report.as_dict(), "version": self.version, "served": served, "notes": self.notes}


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
    """Compare a window of a prediction log with the training data, and compute the accuracy of its answers.

    Args:
        log: the directory of `darkroom batch --log` or `darkroom serve --log`.
        root: the repository, for data/prepared.
        package_of: returns the Package of a version by its number, such as versions.load(versions.find(...)). Images
            are measured at its input size, and it classifies the test images. Not called if `reference` is given.
        version: whose answers to compare; None: the last one in the window.
        since, until: see read.
        reference: a parquet file or directory with columns of the log, such as the log of a good month, instead of the
            training data. It is used as it is, with the answers of all versions.

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
    images = distinct(of_version)
    if repeats := of_version.num_rows - images.num_rows:
        notes.append(f"{repeats} rows repeat an image of the window and are not counted again.")
    window = logged_sample(images)
    n_familiar, least = len(window.measures.get("familiarity", ())), (limits or Limits()).min_rows
    if 0 < n_familiar < least <= images.num_rows:
        notes.append(f"familiarity is not compared: only {n_familiar} rows have it, {least} are needed.")
        kept = {name: values for name, values in window.measures.items() if name != "familiarity"}
        window = Sample(kept, window.labels)
    if reference:
        before, data = stored_sample(reference), None
    else:
        dataset = Dataset.open(root / "data" / "prepared")
        package, data = package_of(version) if version else None, str(dataset.manifest["digest"])
        before = training_sample(dataset, package=package)
        if package:
            before, window, more = _with_answers(before, window, dataset, package)
            notes += more
    labels, n_damaged = read_feedback(log)
    served = served_accuracy(rows, labels, n_damaged=n_damaged)
    report = compare(before, window, limits=limits)
    return Comparison(report, before, window, version, data, served, [*notes, *served.notes])


def distinct(table: "pa.Table") -> "pa.Table":
    """Return the first row of each id, in order."""
    import pyarrow as pa

    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    first = numbered.group_by("id").aggregate([("row", "min")])["row_min"]
    return table.take(pa.array(np.sort(first.to_numpy())))


def logged_sample(table: "pa.Table") -> Sample:
    """Return rows with columns of the prediction log as a sample; missing columns are left out."""
    names = set(table.column_names)
    measures = {name: table[name].to_numpy() for name in (*FEATURES, "confidence") if name in names}
    if "familiarity" in names and len(familiarity := table["familiarity"].drop_null()):
        measures["familiarity"] = familiarity.to_numpy()
    if {"width", "height"} <= names:
        size = _size(*(table[name].to_numpy() for name in ("width", "height")))
        measures["size"] = size[np.isfinite(size)]  # missing for unknown headers
    labels = table["label"].to_pylist() if "label" in names else []
    return Sample(measures, np.array(labels, dtype=str))


def stored_sample(path: Path) -> Sample:
    """Return the sample of a parquet file, or of all files of a directory, with columns of the prediction log.

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
    sample = logged_sample(distinct(table) if "id" in table.column_names else table)
    if not sample.measures and not len(sample.labels):
        raise DataError(f"{path} has no columns to compare; expected some of {', '.join(COLUMNS)}")
    return sample


def training_sample(dataset: Dataset, *, package: Any = None, max_images: int = MAX_TRAINING_IMAGES) -> Sample:
    """Return the sample of the training images, with their true classes.

    Args:
        package: of the model whose answers are compared; the images are converted to its input size and colour mode, if
            these differ. None: they are measured as they are.
        max_images: maximum number of images, evenly spread.
    """
    rows = _spread(dataset.rows("train"), max_images)
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


def answers_on_test(dataset: Dataset, package: Any) -> dict[str, np.ndarray]:
    """Return a version's answers on the test images of classes that it knows, each float (n,); empty without images.

    They are confidence and, if the version can tell, familiarity. They are computed again, because predictions.parquet
    has the answers of the last candidate, which may not have been promoted.
    """
    known = [label for label, name in enumerate(dataset.classes) if name in package.classes]
    rows = dataset.rows("test")
    rows = _spread(rows[np.isin(dataset.labels[rows], known)], MAX_TEST_IMAGES)
    if not len(rows):
        return {}
    parts = [_asked(package, dataset.images[rows[start : start + BATCH]]) for start in range(0, len(rows), BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _asked(package: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return confidence and familiarity in a log's precision, because another one moves values across bin edges."""
    if not _tells(package):
        return {"confidence": package.probabilities(images, batch_size=NETWORK_BATCH).max(axis=1)}
    probabilities, familiarity = package.answers(images, batch_size=NETWORK_BATCH)
    return {"confidence": probabilities.max(axis=1), "familiarity": familiarity.astype(np.float32)}


def _tells(package: Any) -> bool:
    """Return whether a version tells how familiar an image is; the code of older ones lacks the attribute."""
    return getattr(package, "unknown_below", None) is not None


def _spread(rows: np.ndarray, n: int) -> np.ndarray:
    """Return at most n of the row numbers, evenly spread."""
    return rows if len(rows) <= n else rows[np.linspace(0, len(rows) - 1, n).astype(int)]


def _with_answers(before: Sample, window: Sample, dataset: Dataset, package: Any) -> tuple[Sample, Sample, list[str]]:
    """Return both samples with labels and answers that are comparable for the version, and notes on the others.

    Only classes of both the version and the training images are compared, because after a rollback or a change of
    classes the shares of other labels say nothing about the images.
    """
    notes = []
    known = [name for name in dataset.classes if name in package.classes]
    if others := sorted({*dataset.classes, *package.classes} - {*known}):
        listed = ", ".join(others[:SHOWN_CLASSES]) + (", ..." if len(others) > SHOWN_CLASSES else "")
        notes.append(f"label is compared without {listed}: not a class of both the version and the training images.")
    before, window = (Sample(side.measures, side.labels[np.isin(side.labels, known)]) for side in (before, window))
    skipped = "confidence and familiarity are" if _tells(package) else "confidence is"
    if tuple(package.image_shape) != dataset.image_shape:
        sizes = ["x".join(map(str, shape)) for shape in (package.image_shape, dataset.image_shape)]
        notes.append(f"{skipped} not compared: the version takes images of {sizes[0]}, the data are {sizes[1]}.")
    elif answers := answers_on_test(dataset, package):
        before = Sample({**before.measures, **answers}, before.labels)
    else:
        notes.append(f"{skipped} not compared: {dataset.directory} has no test images of the version's classes.")
    return before, window, notes


def _size(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Return the edge, in pixels, of a square of the same area, which does not depend on EXIF orientation."""
    edge: np.ndarray = np.sqrt(width.astype(float) * height)
    return edge


def _equal(column: Any, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.equal(column, value)
