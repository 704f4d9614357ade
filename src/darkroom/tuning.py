"""The coordinator of a search: hands trials to workers until the budget is spent, loses none, and repeats none.

It alone draws trials and is told how they ended, so the number of trials is exact whatever dies. What a trial is
(objective.py, or a test's own function) it does not know.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from darkroom.errors import SearchError, TrainingError
from darkroom.search import Draw, Outcome, Search
from darkroom.trial_rows import FINISHED, TrialRow
from darkroom.workers import WorkerDiedError, Workers

DEATHS_PER_WORKER = 3  # in a row, without one trial that ends; then the search is given up


@dataclass(frozen=True)
class Ended:
    """What a worker sends back: how the trial ended, and the memory in bytes that its process holds afterwards."""

    outcome: Outcome | None
    resident_bytes: int


def measured(function: Callable[[Any], Outcome | None], task: Any) -> Ended:
    """Run one task in a worker."""
    import psutil

    outcome = function(task)
    return Ended(outcome, psutil.Process().memory_info().rss)


def run(
    search: Search,
    workers: Workers,
    *,
    function: Callable[[Any], Outcome | None],
    task_of: Callable[[Draw], Any],
    n_trials: int,
    deadline: float | None = None,
    max_worker_bytes: int | None = None,
    on_lost: Callable[[int], object] = lambda _number: None,
    on_change: Callable[[Sequence[TrialRow]], object] = lambda _rows: None,
    poll_seconds: float = 1.0,
) -> None:
    """Run trials until so many have ended, those of earlier calls included.

    A trial whose worker dies is tried once more, and does not count. Where no trial of the earlier calls was complete,
    those do not count either: what made them fail may be gone.

    Args:
        search: the study.
        workers: where the trials run, one at a time in each place.
        function: runs a task in a worker; picklable. It returns None for a trial that another worker has.
        task_of: makes the task of a trial; picklable too.
        n_trials: complete, pruned or failed ones.
        deadline: Unix time in seconds after which no trial begins, and what tasks know themselves.
        max_worker_bytes: a worker that holds more memory after a trial is replaced.
        on_lost: called with the number of a trial whose worker, or whose coordinator, died.
        on_change: called with all trials whenever some have begun or ended, and every poll_seconds.
        poll_seconds: how often to look.

    Raises:
        SearchError: workers keep dying, or the storage does not answer.
        TrainingError: every trial failed; with the first reason.
    """
    for number in search.lose_running():  # of a coordinator that was killed
        on_lost(number)
    running: dict[Future[Ended], tuple[int, int]] = {}
    free = list(range(workers.n))
    ended = [row.state for row in search.rows() if row.state in FINISHED]
    n_ended = len(ended) if set(ended) != {"failed"} else 0
    deaths, exhausted = 0, False
    try:
        while True:
            while free and not exhausted and n_ended + len(running) < n_trials and not _is_over(deadline):
                drawn = search.ask()
                if drawn is None:
                    exhausted = True
                    break
                place = free.pop(0)
                running[workers.submit(place, measured, function, task_of(drawn))] = (place, drawn.number)
            on_change(search.rows())
            if not running:
                break
            done, _ = wait(running, timeout=poll_seconds, return_when=FIRST_COMPLETED)
            for future in done:
                place, number = running.pop(future)
                free.append(place)
                try:
                    result = future.result()
                except WorkerDiedError:
                    result = None
                if result is None or result.outcome is None:
                    deaths += 1
                    search.lose(number)
                    on_lost(number)
                    _check_deaths(deaths, workers.n, search, number)
                    continue
                search.tell(number, result.outcome)
                n_ended, deaths = n_ended + 1, 0
                if max_worker_bytes is not None and result.resident_bytes > max_worker_bytes:
                    workers.replace(place)
    finally:
        # Only after an error or a signal there are any: their workers end with `workers`, and a later call goes on.
        for _, number in running.values():
            search.lose(number)
            on_lost(number)
    rows = [row for row in search.rows() if row.state in FINISHED]
    if rows and all(row.state == "failed" for row in rows):
        raise TrainingError(f"all {len(rows)} trials failed; the first, trial {rows[0].number}: {rows[0].reason}")


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline


def _check_deaths(deaths: int, n_workers: int, search: Search, number: int) -> None:
    if deaths < DEATHS_PER_WORKER * n_workers:
        return
    overrides: Mapping[str, Any] = search.overrides(number)
    raise SearchError(
        f"{deaths} workers died in a row, the last one in trial {number} ({overrides}); perhaps memory ran out: lower "
        "tune.workers, or take out of tune.space what makes networks large"
    )
