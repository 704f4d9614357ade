"""The worker processes of one version, and the images that wait for them. For the event loop's thread only.

Batches do not wait to fill: a free worker takes the waiting images, so a single image is answered at once, and batches
grow with the load. A worker that ends is replaced, and its images are given to others, one by one. An image that alone
took too much time or memory, or with which a second worker ends, is not tried again.
"""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from darkroom.compute.local import thread_limits
from darkroom.errors import RegistryError
from darkroom.serving.limits import Log, busy
from darkroom.serving.messages import LARGE_PIXELS, Facts, Task
from darkroom.serving.worker_process import Group, Image, WorkerProcess, why

BATCH_BYTES = 1 << 16  # of files per batch, so that large ones are decoded by several workers
START_SECONDS = 120.0  # for a new worker to load its version
MAX_PAUSE = 30.0  # seconds between two starts of a worker that ends before it is ready

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
        self._free: list[WorkerProcess] = []
        self._workers: set[WorkerProcess] = set()
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

    def ready(self, worker: WorkerProcess, facts: Facts) -> None:
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

    def free(self, worker: WorkerProcess, images: list[Image], notes: dict[str, Any]) -> None:
        """Note that a worker has answered images, and give it the next ones."""
        self._free.append(worker)
        self._dispatch()
        try:
            if images:
                self._on_batch(images, notes)
        except Exception as error:  # the clients have their answers
            self._log("batch_not_noted", f"{type(error).__name__}: {' '.join(str(error).split())}")

    def lost(self, worker: WorkerProcess, code: int) -> None:
        """Replace a worker that has ended."""
        self._workers.discard(worker)
        if worker in self._free:
            self._free.remove(worker)
        open_images = [image for image in worker.images if not image.group.done.done()]
        if self._is_closed or worker.is_ended:
            return
        cause, sentence = why(code, self._task.seconds)
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
        worker = WorkerProcess(self)
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
