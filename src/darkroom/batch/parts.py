"""The answered chunks of a batch in OUT.parts/, which are assembled into OUT at the end.

Each chunk is an Arrow file that is written atomically, so OUT has the same content however often a run is killed.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.batch import answers
from darkroom.errors import DataError, LockedError
from darkroom.files.array_folder import MANIFEST
from darkroom.files.writing import replacing, write_errors, write_text
from darkroom.monitoring.log import file_name, schema

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 65_536  # rows of OUT in memory at a time
SHOWN_ERRORS = 3
PARTS = "[0-9]*.arrow"  # complete ones; a kill may leave a hidden, incomplete one
LOG_NAME = "log_name"


@contextmanager
def alone(parts: Path, out: Path) -> Iterator[None]:
    """Make the directory of the parts and hold its lock.

    Raises:
        LockedError: another process holds it.
    """
    from filelock import FileLock, Timeout

    with write_errors(parts):
        parts.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(parts / ".lock", timeout=0):
            yield
    except Timeout:
        raise LockedError(f"{out} is being written by another process; wait for it, or choose another file") from None


def begin(parts: Path, described: dict[str, Any], *, size: int, restart: bool) -> int:
    """Return the number of images per chunk: that of the killed run that is resumed, or `size`.

    Raises:
        DataError: the killed run had other arguments.
    """
    path = parts / MANIFEST
    earlier = None if restart else _read_manifest(path)
    if earlier:
        _check_same(parts, earlier, described)
        return int(earlier["chunk_images"])
    path.unlink(missing_ok=True)  # first: parts are ignored without it
    for left in [*parts.glob("*.arrow"), parts / LOG_NAME]:
        left.unlink(missing_ok=True)
    with write_errors(path):
        write_text(path, json.dumps(described | {"chunk_images": size}))
    return size


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # missing, or left empty by a power failure
        return None


def _check_same(parts: Path, earlier: dict[str, Any], described: dict[str, Any]) -> None:
    for key, now in described.items():
        then = earlier.get(key)
        if then == now:
            continue
        finish = f"--version {then}" if key == "version" else "its arguments"
        raise _of_another_run(parts, f"with {key} {then}, not {now}; finish it with {finish}")


def _of_another_run(parts: Path, what: str) -> DataError:
    return DataError(f"{parts} belongs to a run {what}, or start over with --restart")


def write(parts: Path, number: int, data: bytes) -> None:
    """Write the answers of a chunk, an Arrow file, atomically."""
    path = parts / f"{number:08d}.arrow"
    with write_errors(path), replacing(path) as part:
        part.write_bytes(data)


class Done:
    """The chunks that a killed run has answered, each with the fingerprint of its images.

    Attributes:
        n_images: number of images in these chunks.
    """

    def __init__(self, parts: Path) -> None:
        import pyarrow as pa

        self._parts = parts
        self._left = dict[int, str]()
        self.n_images = 0
        for path in parts.glob(PARTS):
            try:
                with pa.memory_map(str(path)) as file:
                    table = pa.ipc.open_file(file).read_all()
            except (OSError, pa.ArrowInvalid):  # truncated by a power failure
                continue
            self._left[int(path.stem)] = (table.schema.metadata or {}).get(answers.FINGERPRINT, b"").decode()
            self.n_images += table.num_rows

    def take(self, number: int, fingerprint: str) -> bool:
        """Return whether a chunk is done.

        Raises:
            DataError: it was done with other images.
        """
        known = self._left.pop(number, None)
        if known not in (None, fingerprint):
            raise self._other_images()
        return known is not None

    def check_all_taken(self) -> None:
        """Raise DataError if the killed run had chunks that this run does not have."""
        if self._left:
            raise self._other_images()

    def _other_images(self) -> DataError:
        return _of_another_run(self._parts, "on other images; finish it with its arguments")


def assemble(parts: Path, out: Path, *, columns: "pa.Schema", log: Path | None) -> dict[str, Any]:
    """Write all parts as `out`, after the file of the log; return the counts of Summary."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts: dict[str, Any] = {"images": 0, "failed": 0, "abstained": 0, "errors": []}
    written = parts / "rows.parquet"  # beside the parts, so that it is deleted with them after a kill
    with write_errors(out), ExitStack() as stack:
        # Dictionary encoding only where values repeat, not for hashes and probabilities.
        dictionary = ["label", "version", "error"]
        writer = stack.enter_context(pq.ParquetWriter(written, columns, compression="zstd", use_dictionary=dictionary))
        if log:
            logged = stack.enter_context(replacing(log / _log_name(parts)))
            log_writer = stack.enter_context(pq.ParquetWriter(logged, schema(), compression="zstd"))
        for table in _row_groups(parts, columns):
            writer.write_table(table.select(columns.names).cast(columns))
            errors = table.filter(pc.is_valid(table["error"])).select(["path", "error"])
            counts["images"] += table.num_rows
            counts["failed"] += errors.num_rows
            counts["abstained"] += pc.sum(table["abstained"]).as_py() or 0
            first = errors.slice(0, SHOWN_ERRORS - len(counts["errors"])).to_pylist()
            counts["errors"] += [f"{row['path']}: {row['error']}" for row in first]
            if log:
                log_writer.write_table(answers.log_rows(table))
    with write_errors(out):
        written.replace(out)  # the log is written already, under a name that a second attempt would reuse
    return counts


def _row_groups(parts: Path, columns: "pa.Schema") -> Iterator["pa.Table"]:
    """Yield the parts in order, as tables of about ROW_GROUP rows.

    Columns that are missing in parts of an earlier release are null.
    """
    import pyarrow as pa

    none = columns.empty_table()
    held: list[pa.Table] = []
    for path in sorted(parts.glob(PARTS)):
        with pa.memory_map(str(path)) as file:
            held.append(pa.ipc.open_file(file).read_all())
        if sum(table.num_rows for table in held) >= ROW_GROUP:
            yield pa.concat_tables([none, *held], promote_options="default")
            held = []
    if held:
        yield pa.concat_tables([none, *held], promote_options="default")


def _log_name(parts: Path) -> str:
    """Return the name of this run's file in the log, the same after a kill: the images are logged once."""
    path = parts / LOG_NAME
    if not path.exists():
        write_text(path, file_name(0))
    return path.read_text(encoding="utf-8")
