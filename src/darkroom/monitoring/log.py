"""The log of predictions, as parquet files in one directory that many processes may share.

A row has no image, only its hash, its size and measures. Measures are computed on the pixels of the network's input, so
that all images are measured at one size and the log can be compared with the training data.
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from darkroom.errors import DataError
from darkroom.files.writing import replacing, write_errors
from darkroom.monitoring.measures import FEATURES

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {  # and their types
    "id": "string",  # sha256 of the image file's bytes, in hex
    "time": "timestamp",  # of the answer, UTC
    "version": "string",  # of the registered model
    "label": "string",
    "confidence": "float32",  # the probability of the label
    "familiarity": "float32",  # share of known images at least as strange; null if the version cannot tell
    **dict.fromkeys(FEATURES, "float32"),
    "width": "int32",  # of the image as it was sent, in pixels
    "height": "int32",
    "request_id": "string",  # null in a log of `darkroom batch`
    "position": "int32",  # of the image in that request, from 0
}
ADDED = ("request_id", "position", "familiarity")  # missing in files of earlier releases

_NAME_TIME = "%Y%m%dT%H%M%S.%fZ"


class PredictionLog:
    """Collect rows and write them, atomically, to new parquet files of a directory: `<utc time>-<pid>-<n>.parquet`.

    Safe to share between threads. Use it as a context manager, or call close(); rows that were not flushed are lost
    with the process.

    Args:
        folder: made with the first file.
        max_rows: in memory, at about 500 bytes each; with one more the file is written.
        max_seconds: since the first row in memory; then the next append writes the file.

    Attributes:
        n_lost: number of rows that could not be written.
    """

    def __init__(self, folder: Path, *, max_rows: int = 10_000, max_seconds: float = 60.0) -> None:
        self.folder = folder
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._rows: list[Mapping[str, Any]] = []
        self._since = 0.0
        self._n_files = 0
        self.n_lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Add rows with the keys of COLUMNS (`time` is an aware datetime), and return whether a file was written.

        Raises:
            DataError: see flush.
        """
        with self._lock:
            if not self._rows:
                self._since = time.monotonic()
            self._rows.extend(rows)
            due = len(self._rows) >= self._max_rows or time.monotonic() - self._since >= self._max_seconds
        return due and self.flush()

    def flush(self) -> bool:
        """Write the rows in memory to a new file, and return whether there were any.

        Raises:
            DataError: a file cannot be written. The rows are discarded, so that a full disk does not fill the memory.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._lock:
            rows, self._rows = self._rows, []
            number, self._n_files = self._n_files, self._n_files + (1 if rows else 0)
        if not rows:
            return False
        self.n_lost += len(rows)  # until they are written
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema())
        path = self.folder / file_name(number)
        with write_errors(path), replacing(path) as part:
            pq.write_table(table, part, compression="zstd")
        self.n_lost -= len(rows)
        return True

    def close(self) -> None:
        """Write the rows in memory."""
        self.flush()


def read(folder: Path, since: datetime | None = None, until: datetime | None = None) -> "pa.Table":
    """Return the rows of a log, oldest first, in the types of COLUMNS.

    Args:
        since: start of the window, aware; None: from the beginning.
        until: end of the window, exclusive, aware; None: to the end.

    Raises:
        DataError: the directory does not exist, or a file in it is not part of a log.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory; --log of `darkroom batch` or `darkroom serve` writes one")
    window = [(">=", since)] if since else []
    window += [("<", until)] if until else []
    filters = [("time", comparison, pa.scalar(at, pa.timestamp("us", "UTC"))) for comparison, at in window] or None
    tables = [schema().empty_table()]
    for path in sorted(folder.glob("[!.]*.parquet")):
        if since and _flushed(path) < since:  # all its rows are older, so it need not be opened
            continue
        try:
            tables.append(completed(pq.read_table(path, filters=filters, partitioning=None)))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path} is not a file of a prediction log ({reason}); remove it") from None
    table = pa.concat_tables(tables)
    return table.take(pc.sort_indices(table, sort_keys=[("time", "ascending"), ("id", "ascending")]))


def schema() -> "pa.Schema":
    """Return the schema of a log's files."""
    import pyarrow as pa

    kinds = {"string": pa.string(), "timestamp": pa.timestamp("us", "UTC")}
    kinds |= {"float32": pa.float32(), "int32": pa.int32()}
    return pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])


def completed(table: "pa.Table") -> "pa.Table":
    """Return a table with the columns and types of a log; missing columns of ADDED are null.

    Raises:
        KeyError: another column is missing.
    """
    import pyarrow as pa

    for name in ADDED:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, schema().field(name).type))
    return table.select(list(COLUMNS)).cast(schema())


def file_name(number: int) -> str:
    """Return the name of a new file of a log, with the present time, for rows older than that.

    Args:
        number: different for each file of this process.
    """
    return f"{datetime.now(UTC).strftime(_NAME_TIME)}-{os.getpid()}-{number}.parquet"


def keep_image(folder: Path, image_id: str, data: bytes) -> bool:
    """Write the bytes of an image to images/<first two digits>/<id> in a directory, and return whether they were new.

    Raises:
        DataError: a file cannot be written.
    """
    path = folder / "images" / image_id[:2] / image_id
    if path.exists():
        return False
    with write_errors(path), replacing(path) as part:
        part.write_bytes(data)
    return True


def _flushed(path: Path) -> datetime:
    """Return the time in a file's name."""
    try:
        return datetime.strptime(path.name.partition("-")[0], _NAME_TIME).replace(tzinfo=UTC)
    except ValueError:
        raise DataError(f"{path} is not a file of a prediction log; remove it, or choose another directory") from None
