"""The worker processes of one version, and the images that wait for them. For the event loop's thread only.

Batches do not wait to fill: a free worker takes the waiting images, so a single image is answered at once, and batches
grow with the load. A worker that ends is replaced, and its images are given to others, one by one. An image that alone
took too much time or memory, or with which a second worker ends, is not tried again.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from darkroom.compute.local import thread_limits
from darkroom.errors import RegistryError
from darkroom.serving.limits import Log, busy
from darkroom.serving.messages import (
    ABANDONED,
    ANSWERED,
    FAILED,
    LARGE_PIXELS,
    OUT_OF_MEMORY,
    REFUSED,
    Facts,
    Task,
    Unpacker,
    packed,
)

BATCH_BYTES = 1 << 16  # of files per batch, so that large ones are decoded by several workers
START_SECONDS = 120.0  # for a new worker to load its version
REPEAT_SECONDS = 0.5  # between two signals to a worker whose client has left
MAX_PAUSE = 30.0  # seconds between two starts of a worker that ends before it is ready


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


OnBatch = Callable[[list[Image], dict[str, Any]], None]  # of answered images and the worker's notes


class Pool:
    """See above.

    Args:
        n: number of processes.
        on_batch: called with every answered batch; its errors are logged.
        ended: called with the cause, a word, when a worker ended unexpectedly.
        log: called with (event, message, **more) then.
    """

    def __init__(self, task: Task, *, n: int, on_batch: OnBatch, ended: Callable[[str], None], log: Log) -> None:
        self._task = task
        self._n = n
        self._on_batch = on_batch
        self._ended = ended
        self._log = log
        self._free: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._waiting: deque[Image] = deque()
        self._pause = 0.0
        self._is_retired = self._is_closed = False
        self._is_large = True
        self._facts: asyncio.Future[Facts] = asyncio.get_running_loop().create_future()

    async def start(self) -> Facts:
        """Return the facts of the version, once all workers have loaded it.

        Raises:
            RegistryError: it cannot be loaded, or does not answer.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.gather(*(self._start_worker() for _ in range(self._n)))
                return await self._facts
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                version = self._task.version
                said = f"{version.name} version {version.version} was not loaded within {START_SECONDS:g} s"
                raise RegistryError(said) from None
            raise

    @property
    def n_ready(self) -> int:
        """The number of workers that have loaded the version."""
        return sum(worker.is_ready for worker in self._workers)

    @property
    def n_workers(self) -> int:
        """The number of processes."""
        return len(self._workers)

    def trouble(self, seconds: float) -> str | None:
        """Return why these workers should get no more images now, None if they should.

        Args:
            seconds: maximum wait of an image for a worker.
        """
        if not self.n_ready:
            return "no worker process is ready"
        waits = time.perf_counter() - self._waiting[0].since if self._waiting else 0.0
        return f"the oldest image has waited {waits:.1f} s for a worker process" if waits > seconds else None

    def put(self, images: Iterable[Image]) -> None:
        """Queue images."""
        self._waiting.extend(images)
        self._dispatch()

    def drop(self, group: Group) -> None:
        """Remove the images of a group that no worker has taken yet, and stop explanations that are in progress."""
        if any(image.group is group for image in self._waiting):
            self._waiting = deque(image for image in self._waiting if image.group is not group)
        for worker in self._workers if self._task.explains else ():
            if any(image.group is group for image in worker.images):
                worker.abandon(worker.images)

    def retire(self) -> None:
        """End the workers after they have answered all images."""
        self._is_retired = True
        self._dispatch()

    def close(self) -> None:
        """Kill the workers; their answers are not needed."""
        self._is_closed = True
        for worker in self._workers:
            worker.kill()

    async def finish(self, seconds: float) -> None:
        """End the workers after their last images, at the latest after `seconds`."""
        self.retire()
        await self._emptied(seconds)
        self.close()
        await self._emptied(1.0)

    async def _emptied(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._workers and time.monotonic() < until:
            await asyncio.sleep(0.01)

    # Reports of workers

    def ready(self, worker: "_Worker", facts: Facts) -> None:
        """Note that a worker has loaded the version."""
        self._pause = 0.0
        height, width = facts.image_shape[:2]
        self._is_large = height * width >= LARGE_PIXELS
        self._free.append(worker)
        if not self._facts.done() and self.n_ready == self._n:
            self._facts.set_result(facts)
        self._dispatch()

    def refused(self, message: str) -> None:
        """Note that a worker could not load the version."""
        if self._facts.done():
            self._log("worker_not_started", message)
        else:
            self._facts.set_exception(RegistryError(message))

    def free(self, worker: "_Worker", images: list[Image], notes: dict[str, Any]) -> None:
        """Note that a worker has answered images, and give it the next ones."""
        self._free.append(worker)
        self._dispatch()
        try:
            if images:
                self._on_batch(images, notes)
        except Exception as error:  # the clients have their answers
            self._log("batch_not_noted", f"{type(error).__name__}: {' '.join(str(error).split())}")

    def lost(self, worker: "_Worker", code: int) -> None:
        """Replace a worker that has ended."""
        self._workers.discard(worker)
        if worker in self._free:
            self._free.remove(worker)
        open_images = [image for image in worker.images if not image.group.done.done()]
        if self._is_closed or worker.is_ended:
            return
        cause, sentence = _why(code, self._task.seconds)
        if not self._facts.done():
            version = self._task.version
            self.refused(f"{version.name} version {version.version} cannot be loaded: the worker {sentence}")
            return
        self._ended(cause)
        self._log("worker_ended", f"a worker process {sentence}; another one takes its place", cause=cause, code=code)
        is_its_fault = len(worker.images) == 1 and cause in ("memory", "time")
        for image in reversed(open_images):
            if image.is_suspect or is_its_fault:
                image.group.done.set_exception(busy(f"the worker process that had this image {sentence}"))
            else:
                image.is_suspect = True
                self._waiting.appendleft(image)
        asyncio.get_running_loop().call_later(self._pause, self._restart)
        self._pause = min(MAX_PAUSE, 2 * self._pause + 0.1)
        self._dispatch()

    def _restart(self) -> None:
        if not self._is_closed and (self._waiting or not self._is_retired):
            task = asyncio.ensure_future(self._start_worker())
            task.add_done_callback(self._started)

    def _started(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):  # no processes or memory left on this machine
            self._log("worker_not_started", f"{type(error).__name__}: {error}; the next attempt is in {MAX_PAUSE:g} s")
            asyncio.get_running_loop().call_later(MAX_PAUSE, self._restart)

    async def _start_worker(self) -> None:
        worker = _Worker(self)
        environment = {**os.environ, **thread_limits(1)}
        command = [sys.executable, "-P", "-m", "darkroom.serving.worker"]
        loop = asyncio.get_running_loop()
        await loop.subprocess_exec(lambda: worker, *command, stderr=None, env=environment)
        if self._is_closed:
            worker.kill()
            return
        self._workers.add(worker)
        worker.begin(self._task)

    def _dispatch(self) -> None:
        while self._free and self._waiting:
            images = self._next_images()
            self._free.pop().take(images)
        if self._is_retired and not self._waiting:
            while self._free:
                self._free.pop().end()

    def _next_images(self) -> list[Image]:
        share = -(-len(self._waiting) // len(self._free))
        n_most = 1 if self._is_large else min(self._task.max_batch, share)
        images = [self._waiting.popleft()]
        n_bytes = len(images[0].data)
        while self._waiting and len(images) < n_most and not images[0].is_suspect and not self._waiting[0].is_suspect:
            n_bytes += len(self._waiting[0].data)
            if n_bytes > BATCH_BYTES:
                break
            images.append(self._waiting.popleft())
        return images


class _Worker(asyncio.SubprocessProtocol):
    """One process, and the images that it has."""

    def __init__(self, pool: Pool) -> None:
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


def _why(code: int, seconds: float) -> tuple[str, str]:
    """Return why a worker ended: a word for counters, and a phrase."""
    if code == OUT_OF_MEMORY:
        return "memory", "needed more memory than it may have"
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return "time", f"took longer than {seconds:g} s"
    if code < 0:
        return "signal", f"was ended by {signal.Signals(-code).name}"
    return "exit", f"ended with exit code {code}"
