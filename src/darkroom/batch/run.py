"""Classify any number of images into one parquet file, and go on where a killed run ended.

Images are taken in chunks; each chunk that was answered is a file of OUT.parts/, and when all are there they become OUT
in one step; see parts.py.
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

# A kill loses up to a chunk of images per worker, 0.1 s of work. Images of 28x28 pixels take 10 % longer in chunks of
# 256.
CHUNK_IMAGES = 1024
CHUNK_PIXELS = 256 * 224 * 224
SMALLEST_CHUNK = 16
PARQUET = ("", ".parquet", ".pq")  # endings of OUT
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
        stack.enter_context(in_parts.alone(parts, out))
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
