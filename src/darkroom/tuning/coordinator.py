"""The coordinator of a search: passes trials to workers until the budget is spent.

Only the coordinator draws trials and records how they ended, so their number is exact whatever dies. It does not depend
on what a trial is (trial.py, or a test's own function).
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.errors import DarkroomError, RegistryError, SearchError, TrainingError
from darkroom.tuning.rows import FINISHED, TrialRow, n_finished
from darkroom.tuning.study import Draw, Outcome, Search

LOSSES_PER_WORKER = 3  # consecutive, without a finished trial; then the search is given up


@dataclass(frozen=True)
class Ended:
    """A worker's answer: how the trial ended, and the memory in bytes of its process afterwards."""

    outcome: Outcome
    resident_bytes: int


def measured(function: Callable[[Any], Outcome], task: Any) -> Ended:
    """Run one task in a worker."""
    import psutil

    outcome = function(task)
    return Ended(outcome, psutil.Process().memory_info().rss)


def run(
    search: Search,
    workers: Workers,
    *,
    function: Callable[[Any], Outcome],
    task_of: Callable[[Draw], Any],
    n_trials: int,
    deadline: float | None = None,
    max_worker_bytes: int | None = None,
    on_lost: Callable[[int], object] = lambda _number: None,
    on_change: Callable[[Sequence[TrialRow]], object] = lambda _rows: None,
    poll_seconds: float = 1.0,
) -> None:
    """Run trials until n_trials have ended, including those of earlier calls.

    A trial whose worker dies, or cannot reach a server, is tried once more and does not count.

    Args:
        search: the study.
        workers: run one trial at a time each.
        function: runs a task in a worker; picklable.
        task_of: makes the task of a trial; picklable too.
        n_trials: number of complete, pruned or failed trials.
        deadline: Unix time in seconds after which no trial begins but trial 0, with which others are compared; running
            ones must observe it themselves.
        max_worker_bytes: a worker that uses more memory after a trial is replaced.
        on_lost: called with the number of a lost trial when its worker is dead.
        on_change: called with all trials whenever some have begun or ended, and every poll_seconds.
        poll_seconds: interval of polling.

    Raises:
        SearchError: workers keep dying, or the storage does not answer.
        RegistryError: MLflow's store repeatedly does not answer.
        TrainingError: every trial failed; the message has the first reason.
    """
    for number in search.lose_running():
        on_lost(number)
    running: dict[Future[Ended], tuple[int, int]] = {}
    free = list(range(workers.n))
    n_ended = n_finished(search.rows())
    losses, is_exhausted = 0, False
    try:
        while True:
            search.beat()
            while free and not is_exhausted and n_ended + len(running) < n_trials:
                if _is_over(deadline) and not search.is_baseline_waiting():
                    break
                drawn = search.ask()
                if drawn is None:
                    is_exhausted = True
                else:
                    place = free.pop(0)
                    running[workers.submit(place, measured, function, task_of(drawn))] = (place, drawn.number)
            on_change(search.rows())
            if not running:
                break
            done, _ = wait(running, timeout=poll_seconds, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda one: one.exception() is not None):  # successful ones first
                place, number = running[future]
                error = _told(search, number, future)
                if error is None:
                    n_ended, losses = n_ended + 1, 0
                else:
                    losses, is_exhausted = losses + 1, False  # its retry is queued
                    on_lost(number)
                    _check_losses(losses, number, error, n_workers=workers.n)
                if error is None and max_worker_bytes and future.result().resident_bytes > max_worker_bytes:
                    workers.replace(place)
                del running[future]
                free.append(place)
    finally:
        # After an error or a signal trials may be open. Their workers are still alive; closing them ends their runs.
        with suppress(SearchError):
            search.lose_open("the search was stopped")
    rows = [row for row in search.rows() if row.state in FINISHED]
    if rows and all(row.state == "failed" for row in rows):
        raise TrainingError(f"all {len(rows)} trials failed; the first, trial {rows[0].number}: {rows[0].reason}")


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline


def _told(search: Search, number: int, future: "Future[Ended]") -> DarkroomError | None:
    """Record in the study how a trial ended; return why it was lost, None if it ended normally."""
    error = future.exception()
    if error is None:
        search.tell(number, future.result().outcome)
        return None
    if isinstance(error, (WorkerDiedError, RegistryError, SearchError)):
        search.lose(number, str(error), is_own_doing=isinstance(error, WorkerDiedError))
        return error
    raise error


def _check_losses(losses: int, number: int, error: DarkroomError, *, n_workers: int) -> None:
    if losses < LOSSES_PER_WORKER * n_workers:
        return
    if not isinstance(error, WorkerDiedError):
        raise error
    raise SearchError(
        f"{losses} workers died in a row, the last in trial {number}: {error}; if memory ran out, lower "
        "tune.workers, or remove large networks from tune.space"
    )
