"""Messages between the server and its worker processes, over stdin and stdout of the worker.

A message has n parts: n and the lengths of the parts as uint32, then the parts. The first message is a Task in JSON,
answered by Facts, or by {"refused": why}. Later ones have image files and are answered twice: first by the outcome of
each image with the answers in JSON, then by notes for the server's metrics and log, for which no client waits.
"""

import json
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from darkroom.registry.snapshot import Version

OUT_OF_MEMORY = 77  # exit code of a worker
ABANDONED = signal.SIGUSR1  # sent to a worker when nobody waits for its explanation any more
# For images of at least this size the network takes nearly all of the time, and batches do not help on a CPU.
LARGE_PIXELS = 64 * 64
ANSWERED, REFUSED, FAILED = range(3)  # outcomes of an image


@dataclass(frozen=True)
class Task:
    """The task of a worker.

    Attributes:
        network_threads: per inference. More than one helps large networks on a machine with idle cores: ONNX Runtime's
            threads spin between inferences. On 2 cores, at 28x28 (224x224) an inference takes 0.06 (2.2) ms and 0.24
            (2.4) ms of processor time with one thread, 0.05 (1.2) ms and 1.4 to 2.4 (6 to 9) ms with two.
        max_pixels: of an encoded image.
        max_batch: maximum number of images at a time.
        seconds: of processor time for the images of one message.
        memory_bytes: limit after the version is loaded.
        is_logged: whether the log of predictions needs ids and measures of images.
        explains: whether it explains its answers, while no other process wants the processor.
    """

    version: Version
    network_threads: int
    max_pixels: int
    max_batch: int
    seconds: float
    memory_bytes: int
    is_logged: bool
    explains: bool = False

    def packed(self) -> bytes:
        """Return the first message."""
        return packed([json.dumps(asdict(self)).encode()])

    @classmethod
    def of(cls, text: bytes) -> "Task":
        """Return the task of a first message."""
        given = json.loads(text)
        return cls(**{**given, "version": Version(**given["version"])})


@dataclass(frozen=True)
class Facts:
    """Facts about a loaded version."""

    classes: list[str]
    image_shape: tuple[int, ...]
    abstain_below: float | None
    unknown_below: float | None = None
    coverage: float | None = None


def packed(parts: Sequence[bytes]) -> bytes:
    """Return a message."""
    return b"".join((struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)), *parts))


class Unpacker:
    """Assembles messages from the pieces of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[list[bytes]]:
        """Yield the messages that this piece completes."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            (n_parts,) = struct.unpack_from("<I", buffer)
            start = 4 + 4 * n_parts
            if len(buffer) < start:
                return
            sizes = struct.unpack_from(f"<{n_parts}I", buffer, 4)
            if len(buffer) < start + sum(sizes):
                return
            parts = []
            for size in sizes:
                parts.append(bytes(buffer[start : start + size]))
                start += size
            del buffer[:start]
            yield parts
