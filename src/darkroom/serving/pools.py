"""The worker processes of every version that answers, or has just stopped to."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from darkroom.registry.snapshot import Version
from darkroom.serving.follower import Served
from darkroom.serving.logs import log
from darkroom.serving.messages import Task
from darkroom.serving.pool import Image, Pool

OnBatch = Callable[[Version, list[Image], dict[str, Any]], None]


class Pools:
    """See above.

    Args:
        task_of: returns what the workers of a version are there for.
        n_workers: of a version.
        explain_seconds: of processor time for an explanation, by one more worker; None: nothing is explained.
        on_batch: called with every batch that was answered.
        ended: called with the cause, a word, when a worker that predicts ended and should not.
    """

    def __init__(
        self,
        task_of: Callable[[Version], Task],
        *,
        n_workers: int,
        explain_seconds: float | None,
        on_batch: OnBatch,
        ended: Callable[[str], None],
    ) -> None:
        self._task_of = task_of
        self._n_workers = n_workers
        self._explain_seconds = explain_seconds
        self._on_batch = on_batch
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._all: list[Pool] = []

    def load(self, version: Version) -> Served:
        """Return a version that workers have loaded; for a thread of its own.

        Raises:
            RegistryError: a file is gone or changed, or the package does not load, does not answer or, where answers
                are explained, cannot be explained.
        """
        return asyncio.run_coroutine_threadsafe(self._load(version), self._loop).result()

    def retire(self, served: Served) -> None:
        """End the workers of a version that gets no more requests; for any thread."""
        for pool in (served.pool, served.explaining):
            if pool:
                self._loop.call_soon_threadsafe(pool.retire)

    async def finish(self, seconds: float) -> None:
        """End all workers, at the latest after some seconds."""
        await asyncio.gather(*(pool.finish(seconds) for pool in self._all))

    async def _load(self, version: Version) -> Served:
        task, explaining = self._task_of(version), None
        on_batch = partial(self._on_batch, version)
        pools = [pool := Pool(task, n=self._n_workers, on_batch=on_batch, ended=self._ended, log=log)]
        if self._explain_seconds is not None:
            task = replace(task, max_batch=1, seconds=self._explain_seconds, is_logged=False, explains=True)
            explaining = Pool(task, n=1, on_batch=_not_noted, ended=_not_counted, log=log)
            pools.append(explaining)
        self._all = [*(one for one in self._all if one.n_workers), *pools]
        try:
            facts, *_ = await asyncio.gather(*(one.start() for one in pools))
        except BaseException:
            for one in pools:
                one.close()
            raise
        return Served(version, facts, pool, explaining)


def _not_noted(images: list[Image], notes: dict[str, Any]) -> None:
    """Leave explanations out of the log and the counters of predictions."""


def _not_counted(cause: str) -> None:
    """Leave explanations that took too long out of what operators are alerted on; the log has them."""
