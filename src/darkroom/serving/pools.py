"""The worker processes of all versions: of the served one, and of those that are being retired."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from darkroom.registry.snapshot import Version
from darkroom.serving.follower import Served
from darkroom.serving.logs import log
from darkroom.serving.messages import Task
from darkroom.serving.pool import Pool
from darkroom.serving.worker_process import Image

OnBatch = Callable[[Version, list[Image], dict[str, Any]], None]


class Pools:
    """See above.

    Args:
        task_of: returns the task of a version's workers.
        n_workers: number of workers per version.
        explain_seconds: processor time of an explanation, by one more worker; None: no explanations.
        on_batch: called with every answered batch.
        ended: called with the cause, a word, when a predicting worker ended unexpectedly.
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
        """Return a version after workers have loaded it; for another thread.

        Raises:
            RegistryError: a file is gone or changed, or the package cannot be loaded, does not answer or, with
                explanations, cannot be explained.
        """
        return asyncio.run_coroutine_threadsafe(self._load(version), self._loop).result()

    def retire(self, served: Served) -> None:
        """End the workers of a version that gets no more requests; callable from any thread."""
        for pool in (served.pool, served.explaining):
            if pool:
                self._loop.call_soon_threadsafe(pool.retire)

    async def finish(self, seconds: float) -> None:
        """End all workers, at the latest after `seconds`."""
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
    """Do nothing: explanations are not in the log and the counters of predictions."""


def _not_counted(cause: str) -> None:
    """Do nothing: slow explanations should not alert operators; the log has them."""
