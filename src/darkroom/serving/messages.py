"""What the server and its worker processes say to each other, over stdin and stdout of the worker.

A message is n parts: n and the lengths of the parts as uint32, then the parts. The first is a Task in JSON, answered by
Facts, or by {"refused": why}. Then each has image files, and is answered twice: by what became of each image with the
answers in JSON, and by what the server's metrics and log want to know, for which nobody waits.
"""

import json
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from darkroom.registry.snapshot import Version

OUT_OF_MEMORY = 77  # exit code of a worker
ABANDONED = signal.SIGUSR1  # to a worker that explains: nobody waits for that any more
# Of an image from here on the network takes nearly all of the time, and gains nothing by batches on a CPU.
LARGE_PIXELS = 64 * 64
ANSWERED, REFUSED, FAILED = range(3)  # what becomes of an image


@dataclass(frozen=True)
class Task:
    """What a worker is there for.

    Attributes:
        network_threads: of one inference. More than one pays for large networks on a machine with cores to spare: ONNX
            Runtime's threads spin between inferences. On 2 cores, at 28x28 (224x224) an inference takes 0.06 (2.2) ms
            and 0.24 (2.4) ms of processor time with one thread, 0.05 (1.2) ms and 1.4 to 2.4 (6 to 9) ms with two.
        max_pixels: of an encoded image.
        max_batch: images that come at once.
        seconds: of work on what comes at once.
        memory_bytes: beyond what the version takes after it is loaded.
        is_logged: whether the log of predictions wants to know ids and measures of images.
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
        """Return what `packed` had."""
        given = json.loads(text)
        return cls(**{**given, "version": Version(**given["version"])})


@dataclass(frozen=True)
class Facts:
    """What a loaded version says about itself."""

    classes: list[str]
    image_shape: tuple[int, ...]
    abstain_below: float | None
    unknown_below: float | None = None
    coverage: float | None = None


def packed(parts: Sequence[bytes]) -> bytes:
    """Return a message."""
    return b"".join((struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)), *parts))


class Unpacker:
    """Puts messages together from the pieces of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[list[bytes]]:
        """Yield the messages that are complete with this piece."""
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
