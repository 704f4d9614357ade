"""Classify any number of images into one parquet file; a killed run is resumed.

Images are classified in chunks. Each finished chunk is a file in OUT.parts/; at the end they are assembled into OUT in
one step, see parts.py.
"""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.batch import answers
from darkroom.batch import parts as in_parts
from darkroom.batch.inputs import open_inputs
from darkroom.compute.stream import n_workers_of, stream
from darkroom.errors import ParamsError
from darkroom.registry import versions
from darkroom.registry.snapshot import Version

if TYPE_CHECKING:
    import pyarrow as pa

# A kill loses at most a chunk of images per worker, 0.1 s of work. Images of 28x28 pixels take 10 % longer in chunks of
# 256.
CHUNK_IMAGES = 1024
CHUNK_PIXELS = 256 * 224 * 224
SMALLEST_CHUNK = 16
PARQUET = ("", ".parquet", ".pq")  # endings of OUT
METADATA_KEY = b"darkroom"  # of OUT; its value is JSON


@dataclass(frozen=True)
class Options:
    """The options of a run.

    Attributes:
        workers, backend, cluster: see compute.stream. Threads are the default: reading, decoding, hashing and the
            network release the GIL, and 20,000 JPEGs of 28x28 pixels took 0.6 s of CPU in threads but 5 s in two
            processes, whose imports take 2 s each. The GIL is held for about 15 us per image, so processes ("loky") pay
            off only with many cores and many images that small.
        limit: maximum number of images.
        log: a directory for one more file of the prediction log (monitoring/log.py).
        keep_images: also keep the bytes of every image in the log's directory.
        restart: discard the results of a killed run.
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
        images: number of rows of OUT.
        failed: number of images without an answer.
        abstained: number of answers below the model's threshold and of unknown images.
        resumed: number of images that a killed run had answered.
        seconds: of this run.
        errors: "path: reason" for the first few failed images.
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
    which are in the file's metadata under the key darkroom), abstained, familiarity, unknown, prediction_set (a list),
    version, error. For an image without an answer, label to prediction_set are null, and so is id if the image cannot
    be read. familiarity, unknown and prediction_set are null if the version does not give them.

    Args:
        source: see inputs.open_inputs.
        out: the parquet file; unfinished results are kept in out + ".parts".
        version: classifies all images, even if its alias moves meanwhile.
        on_progress: called with the number of finished images and of all, which is None until all are listed.

    Raises:
        ParamsError: the source does not exist, or out cannot be a file.
        DataError: the source is damaged, a part cannot be written, or the killed run had other images or another
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
        stack.enter_context(in_parts.alone(parts, out))
        described = {
            "input": source,
            "limit": options.limit,
            "model": version.name,
            "version": version.version,
            "log": str(log) if log else None,
            "keep_images": options.keep_images,
        }
        n_chunks = 4 * n_workers_of(options.workers)  # at least, if there are enough images
        most = min(CHUNK_IMAGES, CHUNK_PIXELS // (package.image_shape[0] * package.image_shape[1]))
        size = max(SMALLEST_CHUNK, inputs.count(most * n_chunks) // n_chunks)
        size = in_parts.begin(parts, described, size=size, restart=options.restart)
        done = in_parts.Done(parts)
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
            in_parts.write(parts, number, data)
            finished += n_rows
            on_progress(finished, inputs.n)
        done.check_all_taken()
        counts = in_parts.assemble(parts, out, columns=_schema(package, version), log=log)
        shutil.rmtree(parts)
    seconds = round(time.monotonic() - began, 3)
    return Summary(str(out), version.name, version.version, resumed=resumed, seconds=seconds, **counts)


def _schema(package: Any, version: Version) -> "pa.Schema":
    said = {"classes": package.classes, "model": version.name, "version": version.version}
    return answers.schema().with_metadata({METADATA_KEY: json.dumps(said)})
