"""The answered chunks of a batch in OUT.parts/, until all are there and become OUT.

Each is an Arrow file that appears whole or not at all, and holds its images once: however often a run is killed, OUT is
what an undisturbed run would have written.
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

ROW_GROUP = 65_536  # rows of OUT that are in memory at once
SHOWN_ERRORS = 3
PARTS = "[0-9]*.arrow"  # complete ones; a kill may leave a hidden one that was being written
LOG_NAME = "log_name"


@contextmanager
def alone(parts: Path, out: Path) -> Iterator[None]:
    """Make the directory of the parts, and keep other processes out of it.

    Raises:
        LockedError: one of them is writing out.
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
    """Return how many images a chunk has: as many as in the killed run that goes on here, if there is one.

    Raises:
        DataError: the killed run did something else.
    """
    path = parts / MANIFEST
    earlier = None if restart else _read_manifest(path)
    if earlier:
        _check_same(parts, earlier, described)
        return int(earlier["chunk_images"])
    path.unlink(missing_ok=True)  # first: without it, no part is of any use
    for left in [*parts.glob("*.arrow"), parts / LOG_NAME]:
        left.unlink(missing_ok=True)
    with write_errors(path):
        write_text(path, json.dumps(described | {"chunk_images": size}))
    return size


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # not there, or left empty by a machine that lost its power
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
    """Write the answers of a chunk, an Arrow file, whole or not at all."""
    path = parts / f"{number:08d}.arrow"
    with write_errors(path), replacing(path) as part:
        part.write_bytes(data)


class Done:
    """The chunks that an earlier, killed run has answered, each with the fingerprint of its images.

    Attributes:
        n_images: of all of them.
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
            except (OSError, pa.ArrowInvalid):  # a failing machine has left it without its end
                continue
            self._left[int(path.stem)] = (table.schema.metadata or {}).get(answers.FINGERPRINT, b"").decode()
            self.n_images += table.num_rows

    def take(self, number: int, fingerprint: str) -> bool:
        """Return whether a chunk is done.

        Raises:
            DataError: it is, but with other images.
        """
        known = self._left.pop(number, None)
        if known not in (None, fingerprint):
            raise self._other_images()
        return known is not None

    def check_all_taken(self) -> None:
        """Raise DataError if there are chunks of more images than there are now."""
        if self._left:
            raise self._other_images()

    def _other_images(self) -> DataError:
        return _of_another_run(self._parts, "on other images; finish it with its arguments")


def assemble(parts: Path, out: Path, *, columns: "pa.Schema", log: Path | None) -> dict[str, Any]:
    """Write all parts as `out`, and the file of the log before it; return the counts of Summary."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts: dict[str, Any] = {"images": 0, "failed": 0, "abstained": 0, "errors": []}
    written = parts / "rows.parquet"  # beside the parts: what a kill leaves of it goes with them
    with write_errors(out), ExitStack() as stack:
        # Dictionaries where values repeat; hashes and probabilities have nothing to share.
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
        written.replace(out)  # the log is in its place already, under a name that a second attempt uses again
    return counts


def _row_groups(parts: Path, columns: "pa.Schema") -> Iterator["pa.Table"]:
    """Yield the parts in their order, as tables of about ROW_GROUP rows.

    Columns that parts of an earlier release lack are null.
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
