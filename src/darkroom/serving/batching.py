"""Bytes of images to answers: decoded on threads, given to the network in batches that form while it is busy.

There is no waiting for a batch to fill. The thread that has decoded an image runs the network on it at once, unless
enough threads do so already; then the image belongs to the next batch of one of these. A lone request is passed between
two threads only, the event loop's and one of these, and a busy server makes batches as large as its load.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from darkroom.serving.follower import Log, Served
from darkroom.serving.limits import busy

Answer = dict[str, Any]  # of package.predict, or {"error": a sentence}
LARGE_PIXELS = 64 * 64  # from here on the network takes nearly all of the time, and gains nothing by batches on a CPU
_NO_PIXELS: np.ndarray = np.empty(0, np.uint8)


class Answered(NamedTuple):
    """One image that was answered: its file, its pixels as the network took them, the answer, and who asked.

    Attributes:
        queue_seconds, decode_seconds: of this image; network_seconds: of its whole batch.
    """

    data: bytes
    pixels: np.ndarray
    answer: Answer
    request_id: str
    position: int
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    network_seconds: float = 0.0


OnBatch = Callable[[Served, list[Answered]], None]


@dataclass(slots=True)
class _Request:
    id: str
    served: Served
    answers: list[Answer]
    n_open: int
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[list[Answer]]"


@dataclass(slots=True)
class _Item:
    request: _Request
    position: int
    data: bytes
    pixels: np.ndarray = field(default_factory=lambda: _NO_PIXELS)  # until it is decoded
    since: float = field(default_factory=time.perf_counter)
    decode_seconds: float = 0.0


class Batcher:
    """Threads that decode and predict, and the bounded number of images that may wait for them.

    Args:
        n_threads: how many images are decoded at once. All of them may run the network on large images, half of them,
            at least one, on small ones, of which the others meanwhile decode the next batch.
        max_batch: images that the network is given at once.
        max_waiting: images that are accepted and not answered yet.
        on_batch: called on a thread with every batch that was answered.
        log: called with (event, message) when that fails; it must not raise.
    """

    def __init__(self, *, n_threads: int, max_batch: int, max_waiting: int, on_batch: OnBatch, log: Log) -> None:
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._log = log
        self.n_waiting = 0
        self._inbox: SimpleQueue[_Item | None] = SimpleQueue()
        self._decoded: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._n_predicting = 0  # threads that run the network
        self._threads = [threading.Thread(target=self._work, name=f"images-{n}") for n in range(n_threads)]
        for thread in self._threads:
            thread.start()

    async def submit(self, served: Served, images: Sequence[bytes | str], *, request_id: str = "") -> list[Answer]:
        """Return one answer per image, in their order, all from this version.

        Args:
            request_id: for on_batch.
            images: image files; a text is the reason why there is none, and becomes the answer.

        Raises:
            Refused: too many images wait already.
        """
        n_images = sum(not isinstance(image, str) for image in images)
        if self.n_waiting + n_images > self._max_waiting:
            raise busy(f"{self.n_waiting} images are already waiting")
        answers: list[Answer] = [{"error": image} if isinstance(image, str) else {} for image in images]
        if not n_images:
            return answers
        loop = asyncio.get_running_loop()
        request = _Request(request_id, served, answers, n_images, loop, loop.create_future())
        self.n_waiting += n_images
        try:
            for position, image in enumerate(images):
                if not isinstance(image, str):
                    self._inbox.put(_Item(request, position, image))
            return await request.done
        finally:
            self.n_waiting -= n_images

    def close(self) -> None:
        """End the threads, when they have done what was submitted."""
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            began = time.perf_counter()
            try:
                item.pixels = item.request.served.package.decode(item.data)
            except ValueError as error:
                self._deliver([(item, {"error": _one_line(error)})])
                continue
            except Exception as error:  # the version's own code; without an answer the request would wait for ever
                self._fail([item], error)
                continue
            item.decode_seconds = time.perf_counter() - began
            with self._lock:
                self._decoded.append(item)
                if self._n_predicting >= self._n_at_once(item.request.served):
                    continue
                self._n_predicting += 1
            while batch := self._next_batch():
                self._predict(batch)

    def _next_batch(self) -> list[_Item]:
        """Return decoded images that wait for one version, the first come first; none, and this thread is done."""
        with self._lock:
            batch: list[_Item] = []
            while self._decoded and len(batch) < self._max_batch:
                if batch and self._decoded[0].request.served is not batch[0].request.served:
                    break
                batch.append(self._decoded.popleft())
            self._n_predicting -= not batch
            return batch

    def _n_at_once(self, served: Served) -> int:
        """Return how many threads may run this network."""
        height, width = served.package.image_shape[:2]
        return len(self._threads) if height * width >= LARGE_PIXELS else max(1, len(self._threads) // 2)

    def _predict(self, batch: list[_Item]) -> None:
        served, began = batch[0].request.served, time.perf_counter()
        try:
            answers = served.package.predict([item.pixels for item in batch], batch_size=self._max_batch)
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:  # a network that answers one image with what is not a number; others must not suffer
            for item in batch if len(batch) > 1 else ():
                self._predict([item])
            if len(batch) == 1:
                self._fail(batch, error)
            return
        network_seconds = time.perf_counter() - began
        self._deliver(answered)
        try:
            self._on_batch(served, [_noted(*one, began=began, network_seconds=network_seconds) for one in answered])
        except Exception as error:  # the clients have their answers, and this thread must go on for the next ones
            self._log("batch_not_noted", f"{type(error).__name__}: {_one_line(error)}")

    def _deliver(self, answered: list[tuple[_Item, Answer]]) -> None:
        complete: list[_Request] = []
        with self._lock:
            for item, answer in answered:
                request = item.request
                request.answers[item.position] = answer
                request.n_open -= 1
                if not request.n_open:
                    complete.append(request)
        if complete:
            _call(complete[0].loop, _finish, complete)

    def _fail(self, items: list[_Item], error: Exception) -> None:
        for item in items:
            _call(item.request.loop, _break, item.request, error)


def _noted(item: _Item, answer: Answer, *, began: float, network_seconds: float) -> Answered:
    waited = began - item.since - item.decode_seconds
    who = item.request.id, item.position
    return Answered(item.data, item.pixels, answer, *who, waited, item.decode_seconds, network_seconds)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed, after the grace period of an end: nobody waits any more
        loop.call_soon_threadsafe(function, *arguments)


def _finish(requests: list[_Request]) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_result(request.answers)


def _break(request: _Request, error: Exception) -> None:
    if not request.done.done():
        request.done.set_exception(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
