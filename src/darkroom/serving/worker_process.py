"""One worker process of a pool, as the event loop sees it, and the images that it is given."""

import asyncio
import json
import signal
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from darkroom.serving.messages import ABANDONED, ANSWERED, FAILED, OUT_OF_MEMORY, REFUSED, Facts, Task, Unpacker, packed

REPEAT_SECONDS = 0.5  # between two signals to a worker whose client has left


class WorkerFailed(Exception):  # noqa: N818 - what the version's own code raised
    """The code of a version failed on an image."""


@dataclass(slots=True)
class Answer:
    """The answer for an image: JSON, either a prediction or {"error": a sentence}."""

    text: bytes
    is_error: bool

    @property
    def value(self) -> dict[str, Any]:
        """The parsed JSON."""
        return cast(dict[str, Any], json.loads(self.text))


def refusal(sentence: str) -> Answer:
    """Return the answer for an image that cannot be read."""
    return Answer(json.dumps({"error": sentence}, ensure_ascii=False).encode(), is_error=True)


@dataclass(slots=True, eq=False)
class Group:
    """The images of one request.

    Attributes:
        answers: of all images, None for open ones.
        n_open: number of open ones.
    """

    id: str
    answers: list[Answer | None]
    n_open: int
    done: "asyncio.Future[list[Answer]]"

    def complete(self) -> list[Answer]:
        """Return the answers once none is open."""
        return cast(list[Answer], self.answers)


@dataclass(slots=True, eq=False)
class Image:
    """An image file that waits for its answer.

    Attributes:
        is_suspect: whether a worker ended with it.
    """

    group: Group
    position: int
    data: bytes
    since: float = field(default_factory=time.perf_counter)
    sent: float = 0.0
    is_suspect: bool = False


class Owner(Protocol):
    """What a worker process reports to; see pool.Pool."""

    def ready(self, worker: "WorkerProcess", facts: Facts) -> None: ...

    def refused(self, message: str) -> None: ...

    def free(self, worker: "WorkerProcess", images: list[Image], notes: dict[str, Any]) -> None: ...

    def lost(self, worker: "WorkerProcess", code: int) -> None: ...


class WorkerProcess(asyncio.SubprocessProtocol):
    """One process, and the images that it has."""

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._unpacker = Unpacker()
        self._answered: list[Image] = []
        self.images: list[Image] = []
        self.is_ready = self.is_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._process.get_pipe_transport(0))

    def begin(self, task: Task) -> None:
        """Let it load a version."""
        self._stdin.write(task.packed())

    def take(self, images: list[Image]) -> None:
        """Give images to it; it must be free."""
        self.images = images
        now = time.perf_counter()
        for image in images:
            image.sent = now
        self._stdin.write(packed([image.data for image in images]))

    def end(self) -> None:
        """Ask it to end; it must be free."""
        self.is_ended = True
        self._stdin.close()

    def abandon(self, images: list[Image]) -> None:
        """Stop its explanation of these images; until it has, again and again.

        A signal that comes before the worker has read the images is lost.
        """
        if images and self.images is images and self._process.get_returncode() is None:
            self._process.send_signal(ABANDONED)
            asyncio.get_running_loop().call_later(REPEAT_SECONDS, self.abandon, images)

    def kill(self) -> None:
        """Kill it."""
        if self._process.get_returncode() is None:
            self._process.kill()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - asyncio's name
        for message in self._unpacker.feed(data):
            if not self.is_ready:
                self._begun(json.loads(message[0]))
            elif self.images:
                self._deliver(message)
            else:
                answered, self._answered = self._answered, []
                self._pool.free(self, answered, json.loads(message[0]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._pool.lost(self, self._process.get_returncode() or 0)

    def _begun(self, told: dict[str, Any]) -> None:
        if "refused" in told:
            self._pool.refused(told["refused"])
            return
        self.is_ready = True
        facts = Facts(**{**told, "image_shape": tuple(told["image_shape"])})
        self._pool.ready(self, facts)

    def _deliver(self, message: list[bytes]) -> None:
        outcomes, *texts = message
        for image, outcome, text in zip(self.images, outcomes, texts, strict=True):
            group = image.group
            if outcome == ANSWERED:
                self._answered.append(image)
            elif outcome == FAILED and not group.done.done():
                group.done.set_exception(WorkerFailed(json.loads(text)["error"]))
            group.answers[image.position] = Answer(text, outcome == REFUSED)
            group.n_open -= 1
            if not group.n_open and not group.done.done():
                group.done.set_result(group.complete())
        self.images = []


def why(code: int, seconds: float) -> tuple[str, str]:
    """Return why a worker ended: a word for counters, and a phrase."""
    if code == OUT_OF_MEMORY:
        return "memory", "needed more memory than it may have"
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return "time", f"took longer than {seconds:g} s"
    if code < 0:
        return "signal", f"was ended by {signal.Signals(-code).name}"
    return "exit", f"ended with exit code {code}"
