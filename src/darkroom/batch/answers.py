"""Classify one chunk of images: a worker's task in `darkroom batch`."""

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.batch.inputs import MAX_IMAGE_BYTES, Chunk, Unread, too_large
from darkroom.errors import DataError
from darkroom.monitoring import log, measures
from darkroom.registry import versions
from darkroom.registry.snapshot import Version

if TYPE_CHECKING:
    import pyarrow as pa

# The values that a thread computes at once should fit into its cache: a convolutional network at 224x224 took 2 ms per
# image in batches of 1 to 8 and 12 ms in batches of 256; at 28x28, 0.08 ms in batches of 8 to 64 and 0.13 ms in 256.
BATCH_PIXELS = 8 * 160 * 160
BATCH_SIZES = (4, 64)  # the smallest and the largest
FINGERPRINT = b"fingerprint"
MEASURES = ("width", "height", *measures.FEATURES)

_packages: dict[tuple[str, str], Any] = {}
_loading = Lock()


@dataclass(frozen=True)
class Work:
    """The settings of a worker.

    Attributes:
        version: the model.
        measured: whether to measure the images for the prediction log.
        keep_images: the log's directory, if it keeps the images' bytes too.
    """

    version: Version
    measured: bool = False
    keep_images: Path | None = None


def answer(chunk: Chunk, *, work: Work) -> tuple[int, int, bytes]:
    """Return the chunk's number, its number of images, and their rows as an Arrow file; see `schema`.

    The file's metadata hold the chunk's fingerprint.

    Raises:
        DataError: the network's output is not probabilities.
        RegistryError: the version cannot be loaded.
    """
    package = _package(work.version)
    images = np.empty((len(chunk.names), *package.image_shape), np.uint8)
    ids: list[str | None] = [None] * len(images)
    errors: list[str | None] = [None] * len(images)
    measured = np.full((len(images), len(MEASURES)), np.nan)
    answered: list[int] = []
    for position, content in enumerate(chunk.contents):
        try:
            data = content if isinstance(content, bytes) else _read(content)
            ids[position] = hashlib.sha256(data).hexdigest()
            image = package.decode(data)
        except (OSError, ValueError, DataError) as error:
            errors[position] = _one_line(error)
            continue
        if work.measured:
            found = measures.measures(data, image)
            measured[position] = [np.nan if found[name] is None else found[name] for name in MEASURES]
        if work.keep_images:
            log.keep_image(work.keep_images, str(ids[position]), data)
        images[len(answered)] = image
        answered.append(position)
    try:
        answers = _ask(package, images[: len(answered)])
    except ValueError as error:
        raise DataError(str(error)) from None
    table = _table(chunk, ids, errors, np.array(answered, int), answers, package=package, work=work)
    if work.measured:
        table = _with_measures(table, measured)
    return chunk.number, len(images), _as_bytes(table.replace_schema_metadata({FINGERPRINT: chunk.fingerprint}))


def schema() -> "pa.Schema":
    """Return the columns of the rows; `answer` adds time and, if it measures, those of the prediction log."""
    import pyarrow as pa

    return pa.schema(
        [
            ("path", pa.string()),
            ("id", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float32()),
            ("probabilities", pa.list_(pa.float32())),
            ("abstained", pa.bool_()),
            ("familiarity", pa.float32()),
            ("unknown", pa.bool_()),
            ("prediction_set", pa.list_(pa.string())),
            ("version", pa.string()),
            ("error", pa.string()),
        ]
    )


def log_rows(table: "pa.Table") -> "pa.Table":
    """Return the rows of the prediction log: the measured rows that have an answer."""
    import pyarrow.compute as pc

    answered = table.filter(pc.is_valid(table["label"])).rename_columns({"probability": "confidence"})
    return log.completed(answered)


def _table(
    chunk: Chunk,
    ids: list[str | None],
    errors: list[str | None],
    answered: np.ndarray,
    found: tuple[np.ndarray, np.ndarray | None],
    *,
    package: Any,
    work: Work,
) -> "pa.Table":
    import pyarrow as pa

    n, n_classes, probabilities = len(ids), len(package.classes), found[0]
    best, missing = np.zeros(n, int), np.ones(n, bool)
    best[answered], missing[answered] = probabilities.argmax(axis=1), False
    confidence = np.zeros(n, np.float32)
    confidence[answered] = probabilities.max(axis=1, initial=0)
    familiarity = np.full(n, np.nan)
    if found[1] is not None:
        familiarity[answered] = found[1]
    unknown = familiarity < (getattr(package, "unknown_below", None) or 0.0)
    abstained = unknown | (confidence < (package.abstain_below or 0.0))
    ends = np.cumsum(np.append(0, ~missing) * n_classes).astype(np.int32)
    columns = [
        pa.array(chunk.names, pa.string()),
        pa.array(ids, pa.string()),
        pa.array(package.classes, pa.string()).take(pa.array(best, mask=missing)),
        pa.array(confidence, mask=missing),
        pa.ListArray.from_arrays(pa.array(ends), pa.array(probabilities.reshape(-1)), mask=pa.array(missing)),
        pa.array(abstained, mask=missing),
        pa.array(familiarity, pa.float32(), from_pandas=True),
        pa.array(unknown, mask=np.isnan(familiarity)),
        _sets(package, probabilities, missing),
        pa.repeat(pa.scalar(work.version.version, pa.string()), n),
        pa.array(errors, pa.string()),
    ]
    table = pa.Table.from_arrays(columns, schema=schema())
    return table.append_column("time", pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), n))


def _sets(package: Any, probabilities: np.ndarray, missing: np.ndarray) -> "pa.Array":
    """Return the prediction set of each image, the most probable class first; null if the version has none."""
    import pyarrow as pa

    kind = pa.list_(pa.string())
    if getattr(package, "sets", None) is None:  # versions of earlier releases lack it
        return pa.nulls(len(missing), kind)
    order, members = np.argsort(-probabilities, axis=1, kind="stable"), package.prediction_sets(probabilities)
    listed, sizes = order[np.take_along_axis(members, order, axis=1)], np.zeros(len(missing), np.int32)
    sizes[~missing] = members.sum(axis=1)
    ends = np.cumsum(np.append(0, sizes), dtype=np.int32)
    names = pa.array(package.classes, pa.string()).take(pa.array(listed))
    return pa.ListArray.from_arrays(pa.array(ends), names, mask=pa.array(missing)).cast(kind)


def _ask(package: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return probabilities, and how familiar the images are (None if the version cannot tell)."""
    size = batch_size(package.image_shape)
    if not hasattr(package, "answers"):  # a version of an earlier release
        return package.probabilities(images, batch_size=size), None
    probabilities, familiarity = package.answers(images, batch_size=size)
    return probabilities, familiarity


def _with_measures(table: "pa.Table", measures: np.ndarray) -> "pa.Table":
    """Return the table with a column for each of MEASURES; NaN becomes null."""
    import pyarrow as pa

    for name, values in zip(MEASURES, measures.T, strict=True):
        column = pa.array(values, from_pandas=True).cast(log.schema().field(name).type, safe=False)
        table = table.append_column(name, column)
    return table


def _as_bytes(table: "pa.Table") -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return bytes(sink.getvalue())


def batch_size(image_shape: tuple[int, int, int]) -> int:
    """Return the batch size of one thread for images of (height, width, channels)."""
    least, greatest = BATCH_SIZES
    return max(least, min(greatest, BATCH_PIXELS // (image_shape[0] * image_shape[1])))


def _package(version: Version) -> Any:
    """Return the version's Package, loaded once per process, with one thread: each core has a worker of its own."""
    key = (version.location, version.version)
    with _loading:
        if key not in _packages:
            _packages[key] = versions.load(version, threads=1)
    return _packages[key]


def _read(content: str | Unread) -> bytes:
    if isinstance(content, Unread):
        raise DataError(content.reason)
    descriptor = os.open(content, os.O_RDONLY | os.O_NONBLOCK)  # a third of the system calls of Path.read_bytes
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):  # without O_NONBLOCK, opening a named pipe would block forever
            raise DataError("a directory" if stat.S_ISDIR(state.st_mode) else "not a regular file")
        if state.st_size > MAX_IMAGE_BYTES:
            raise DataError(too_large(state.st_size))
        data = os.read(descriptor, state.st_size)
        while len(data) < state.st_size and (more := os.read(descriptor, state.st_size - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
