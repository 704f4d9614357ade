"""Classify any number of images into one parquet file, and go on where a killed run ended.

Images are taken in chunks; each chunk that was answered is a file of OUT.parts/, and when all are there they become OUT
in one step. A chunk's file appears whole or not at all, and holds its images once: however often a run is killed, OUT
is what an undisturbed run would have written.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.batch import answers
from darkroom.batch.inputs import open_inputs
from darkroom.compute.stream import n_workers_of, stream
from darkroom.errors import DataError, LockedError, ParamsError
from darkroom.files.array_folder import MANIFEST
from darkroom.files.writing import replacing, write_errors, write_text
from darkroom.monitoring.log import file_name, schema
from darkroom.registry import versions
from darkroom.registry.snapshot import Version

if TYPE_CHECKING:
    import pyarrow as pa

# A kill loses up to a chunk of images per worker, 0.1 s of work. Images of 28x28 pixels take 10 % longer in chunks of
# 256.
CHUNK_IMAGES = 1024
CHUNK_PIXELS = 256 * 224 * 224
SMALLEST_CHUNK = 16
ROW_GROUP = 65_536  # rows of OUT that are in memory at once
SHOWN_ERRORS = 3
PARQUET = ("", ".parquet", ".pq")  # endings of OUT
PARTS = "[0-9]*.arrow"  # complete ones; a kill may leave a hidden one that was being written
LOG_NAME = "log_name"
METADATA_KEY = b"darkroom"  # of OUT; its value is JSON


@dataclass(frozen=True)
class Options:
    """How to go about it.

    Attributes:
        workers, backend, cluster: see compute.stream. Threads are the default: reading, decoding, hashing and the
            network leave the GIL, and 20,000 JPEGs of 28x28 pixels took 0.6 s of CPU in threads but 5 s in two
            processes, which import for 2 s each. What holds the GIL is about 15 us per image: only where many cores
            are fed with many images that small do processes ("loky") pay off.
        limit: take only the first so many images.
        log: a folder for one more file of the prediction log (monitoring/log.py).
        keep_images: keep the bytes of every image in the log's folder as well.
        restart: throw away what an earlier, killed run has done.
    """

    workers: int | str = "auto"
    backend: str = "threading"
    cluster: str | None = None
    limit: int | None = None
    log: Path | None = None
    keep_images: bool = False
    restart: bool = False


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        images: rows of OUT.
        failed: of these, the images without an answer.
        abstained: of these, answers below the model's threshold, and unknown images.
        resumed: images that an earlier, killed run had answered.
        seconds: of this run.
        errors: the first few failed ones, "path: reason".
    """

    out: str
    model: str
    version: str
    images: int
    failed: int
    abstained: int
    resumed: int
    seconds: float
    errors: list[str]


def run(
    source: str,
    out: Path,
    *,
    version: Version,
    options: Options = Options(),
    on_progress: Callable[[int, int | None], None] = lambda _done, _of: None,
) -> Summary:
    """Classify the images of `source` and write `out`: one row per image, in the order of the source.

    Columns: path, id (sha256 of the bytes), label, probability, probabilities (a list in the order of the classes,
    which the file's metadata name under the key darkroom), abstained, familiarity, unknown, prediction_set (a list),
    version, error. Of an image without an answer, label to prediction_set are null, and of one that cannot be read the
    id too; familiarity, unknown and prediction_set are null if the version does not tell them.

    Args:
        source: see inputs.open_inputs.
        out: the parquet file; out + ".parts" holds what is done until all is.
        version: answers all images, whatever its alias does meanwhile.
        on_progress: is told how many images of how many are done; None: not all are listed yet.

    Raises:
        ParamsError: the source does not exist, or out cannot be a file.
        DataError: the source is damaged, a part cannot be written, or an earlier run was not of the same images and
            version.
        LockedError: another process is writing out.
        RegistryError: the version cannot be loaded.
    """
    began = time.monotonic()
    if out.is_dir():
        raise ParamsError(f"{out} is a directory; expected the parquet file to write")
    if out.suffix.lower() not in PARQUET:
        raise ParamsError(
            f"{out}: the answers are written as parquet; name the file {out.with_suffix('.parquet').name}"
        )
    if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise ParamsError(f"{out} is inside {source}; choose a file outside it")
    package, log = versions.load(version), options.log
    parts = out.with_name(f"{out.name}.parts")
    with ExitStack() as stack:
        inputs = stack.enter_context(open_inputs(source, limit=options.limit))
        stack.enter_context(_alone(parts, out))
        described = {
            "input": source,
            "limit": options.limit,
            "model": version.name,
            "version": version.version,
            "log": str(log) if log else None,
            "keep_images": options.keep_images,
        }
        n_chunks = 4 * n_workers_of(options.workers)  # at least, where there are enough images
        most = min(CHUNK_IMAGES, CHUNK_PIXELS // (package.image_shape[0] * package.image_shape[1]))
        size = max(SMALLEST_CHUNK, inputs.count(most * n_chunks) // n_chunks)
        size = _begin(parts, described, size=size, restart=options.restart)
        done = _Done(parts)
        resumed = finished = done.n_images
        on_progress(finished, inputs.n)
        work = answers.Work(
            version, measured=log is not None, keep_images=log.absolute() if log and options.keep_images else None
        )
        answered = stream(
            partial(answers.answer, work=work),
            inputs.chunks(size, is_done=done.take),
            backend=options.backend,
            workers=options.workers,
            cluster=options.cluster,
        )
        for number, n_rows, data in answered:
            _write(parts / f"{number:08d}.arrow", data)
            finished += n_rows
            on_progress(finished, inputs.n)
        done.check_all_taken()
        counts = _assemble(parts, out, columns=_schema(package, version), log=log)
        shutil.rmtree(parts)
    seconds = round(time.monotonic() - began, 3)
    return Summary(str(out), version.name, version.version, resumed=resumed, seconds=seconds, **counts)


@contextmanager
def _alone(parts: Path, out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    with write_errors(parts):
        parts.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(parts / ".lock", timeout=0):
            yield
    except Timeout:
        raise LockedError(f"{out} is being written by another process; wait for it, or choose another file") from None


def _begin(parts: Path, described: dict[str, Any], *, size: int, restart: bool) -> int:
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


def _write(path: Path, data: bytes) -> None:
    with write_errors(path), replacing(path) as part:
        part.write_bytes(data)


class _Done:
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


def _schema(package: Any, version: Version) -> "pa.Schema":

    said = {"classes": package.classes, "model": version.name, "version": version.version}
    return answers.schema().with_metadata({METADATA_KEY: json.dumps(said)})


def _assemble(parts: Path, out: Path, *, columns: "pa.Schema", log: Path | None) -> dict[str, Any]:
    """Write all parts as `out`, and the file of the log before it; return the counts of Summary."""
    import pyarrow as pa
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
        for table in _row_groups(parts):
            for field in columns:  # parts of an earlier release lack those that came later
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(table.num_rows, field.type))
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


def _row_groups(parts: Path) -> Iterator["pa.Table"]:
    """Yield the parts in their order, as tables of about ROW_GROUP rows; columns that a part lacks are null."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for path in sorted(parts.glob(PARTS)):
        with pa.memory_map(str(path)) as file:
            held.append(pa.ipc.open_file(file).read_all())
        if sum(table.num_rows for table in held) >= ROW_GROUP:
            yield pa.concat_tables(held, promote_options="default")
            held = []
    if held:
        yield pa.concat_tables(held, promote_options="default")


def _log_name(parts: Path) -> str:
    """Return the name of this run's file in the log, the same after a kill: the images are logged once."""
    path = parts / LOG_NAME
    if not path.exists():
        write_text(path, file_name(0))
    return path.read_text(encoding="utf-8")
