"""A worker process of `darkroom serve`: decodes images and runs the network of one version on them.

A crash in a decoder ends the worker and not the server. The worker reads tasks from stdin, answers to stdout, and ends
with stdin. The kernel ends it when images take too long, and refuses memory beyond its limit.
"""

import hashlib
import json
import os
import re
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from darkroom.errors import DarkroomError, RegistryError
from darkroom.monitoring.measures import measures
from darkroom.registry import versions
from darkroom.serving.explaining import Explaining
from darkroom.serving.messages import ANSWERED, FAILED, LARGE_PIXELS, OUT_OF_MEMORY, REFUSED, Task, packed

NO_MEMORY = -4  # StsNoMem of OpenCV
NO_ROOM = re.compile("bad_alloc|allocate memory")  # of ONNX Runtime
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _messages(source: BinaryIO) -> Iterator[list[bytes]]:
    while len(head := source.read(4)) == 4:
        (n_parts,) = struct.unpack("<I", head)
        sizes = struct.unpack(f"<{n_parts}I", source.read(4 * n_parts))
        yield [source.read(size) for size in sizes]


def main() -> None:
    """Serve until stdin ends."""
    for one in (signal.SIGINT, signal.SIGTERM):  # handled by the server, which ends this process
        signal.signal(one, signal.SIG_IGN)
    source = sys.stdin.buffer
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that prints of libraries are not answers
    messages = _messages(source)
    try:
        _serve(Task.of(next(messages)[0]), messages, target)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BrokenPipeError:  # the server has ended
        os._exit(0)


def _serve(task: Task, messages: Iterator[list[bytes]], target: BinaryIO) -> None:
    def send(*parts: bytes) -> None:
        target.write(packed(parts))

    try:
        package = _loaded(task)
        explain = _explaining(task, package) if task.explains else None
    except DarkroomError as error:
        send(_ENCODER.encode({"refused": str(error)}).encode())
        target.flush()
        return
    facts = {"classes": package.classes, "image_shape": package.image_shape, "abstain_below": package.abstain_below}
    facts["unknown_below"] = getattr(package, "unknown_below", None)  # versions of earlier releases lack it
    facts["coverage"] = (getattr(package, "sets", None) or {}).get("coverage")  # and this
    send(_ENCODER.encode(facts).encode())
    target.flush()
    _limit_memory(task.memory_bytes)
    for images in messages:
        if explain:
            explain.is_abandoned = False  # a signal for the image before was sent before this one
        _set_alarms(task.seconds)
        batch = _Batch(package, images)
        if explain:
            batch.explain(explain)
        send(*batch.answers())
        if task.is_logged:
            target.flush()  # measuring takes a while
        send(_ENCODER.encode(batch.notes(is_logged=task.is_logged)).encode())
        target.flush()
        _set_alarms(0)


def _set_alarms(seconds: float) -> None:
    """Let the kernel end this process after `seconds` of processor time, even within a C library.

    A process that hangs without using the processor is ended after ten times as long.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def _loaded(task: Task) -> Any:
    """Return the package after a first inference, which allocates memory and takes several times as long.

    Raises:
        RegistryError: a file is gone or changed, or the package cannot be loaded or does not answer.
    """
    package = versions.load(task.version, threads=task.network_threads, max_pixels=task.max_pixels)
    try:
        import cv2

        cv2.setNumThreads(1)  # workers already run in parallel
        height, width = package.image_shape[:2]
        for n_images in (1,) if height * width >= LARGE_PIXELS else (task.max_batch, 1):
            package.probabilities(np.zeros((n_images, *package.image_shape), np.uint8))
    except Exception as error:  # the version's own code
        said = f"{task.version.name} version {task.version.version} does not answer: {type(error).__name__}: {error}"
        raise RegistryError(said) from error
    return package


def _explaining(task: Task, package: Any) -> Explaining:
    """Return the explainer after a short trial; from now on this process runs at idle priority.

    Raises:
        RegistryError: the version cannot be explained.
    """
    try:
        _give_way()
        return Explaining(task.version, package, threads=task.network_threads)
    except Exception as error:  # of onnx, or the version's own code
        said = f"{task.version.name} version {task.version.version} cannot be explained"
        raise RegistryError(f"{said}: {type(error).__name__}: {error}; serve it without --explain") from error


def _give_way() -> None:
    """Run only while no other process wants the processor; with a nice value, others would still wait at times."""
    threads = Path("/proc/self/task")  # only on Linux
    for thread in threads.iterdir() if threads.is_dir() else ():
        with suppress(OSError):  # refused in some containers; or the thread has ended
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def _limit_memory(n_bytes: int) -> None:
    """Limit this process to n_bytes of further allocations; only on Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    if found := re.search(r"^VmData:\s+(\d+) kB", status, re.MULTILINE):
        limit = (int(found[1]) << 10) + n_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


@dataclass
class _Image:
    data: bytes
    outcome: int
    answer: dict[str, Any]
    pixels: np.ndarray | None = None
    decode_seconds: float = 0.0


class _Batch:
    """Image files, and their outcomes."""

    def __init__(self, package: Any, files: Sequence[bytes]) -> None:
        self._images = [_decoded(package, file) for file in files]
        readable = [image for image in self._images if image.pixels is not None]
        began = time.perf_counter()
        if readable:
            _predict(package, readable)
        self._network_seconds = time.perf_counter() - began

    def explain(self, explain: Explaining) -> None:
        """Add an explanation to each answer."""
        for image in self._images:
            if image.outcome == ANSWERED and image.pixels is not None:
                try:
                    image.answer |= explain(image.pixels, image.answer["label"])
                except Exception as error:  # the version's own code
                    _failed(image, error)

    def answers(self) -> list[bytes]:
        """Return the parts of the first answer: outcomes, one byte each, and the answers."""
        outcomes = bytes(image.outcome for image in self._images)
        return [outcomes, *(_ENCODER.encode(image.answer).encode() for image in self._images)]

    def notes(self, *, is_logged: bool) -> dict[str, Any]:
        """Return the second answer."""
        return {
            "network_seconds": self._network_seconds,
            "images": [_noted(image, is_logged=is_logged) for image in self._images if image.outcome == ANSWERED],
        }


def _decoded(package: Any, data: bytes) -> _Image:
    began = time.perf_counter()
    try:
        pixels = package.decode(data)
    except ValueError as error:
        return _Image(data, REFUSED, {"error": _one_line(error)})
    except Exception as error:  # the version's own code
        return _failed(_Image(data, FAILED, {}), error)
    return _Image(data, FAILED, {}, pixels, time.perf_counter() - began)


def _predict(package: Any, images: Sequence[_Image]) -> None:
    """Answer images; one for which the network returns NaN fails alone."""
    try:
        answers = package.predict([image.pixels for image in images], batch_size=len(images))
        for image, answer in zip(images, answers, strict=True):
            image.outcome, image.answer = ANSWERED, answer
    except Exception as error:
        if len(images) == 1:
            _failed(images[0], error)
            return
        for image in images:
            _predict(package, [image])


def _failed(image: _Image, error: Exception) -> _Image:
    """Note that the version's code failed.

    Raises:
        MemoryError: the memory is exhausted.
    """
    if isinstance(error, MemoryError) or getattr(error, "code", 0) == NO_MEMORY or NO_ROOM.search(str(error)):
        raise MemoryError from error
    image.outcome, image.answer = FAILED, {"error": f"{type(error).__name__}: {_one_line(error)}"}
    return image


def _noted(image: _Image, *, is_logged: bool) -> dict[str, Any]:
    answer = image.answer
    noted = {key: answer.get(key, False) for key in ("label", "probability", "abstained", "unknown")}
    noted["familiarity"] = answer.get("familiarity")
    noted["decode_seconds"] = image.decode_seconds
    if is_logged and image.pixels is not None:
        noted["id"] = hashlib.sha256(image.data).hexdigest()
        noted["measures"] = measures(image.data, image.pixels)
    return noted


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
