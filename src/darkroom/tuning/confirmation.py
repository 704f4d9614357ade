"""Confirm a choice: train the best trials and the values of params.yaml at full length, on another seed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from heapq import heapreplace

from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.errors import SearchError
from darkroom.project.console import say
from darkroom.project.params import digest
from darkroom.training.recipe import Recipe, n_epochs
from darkroom.tuning import trial
from darkroom.tuning.choice import ChosenTrial, confirmed
from darkroom.tuning.rows import TrialRow
from darkroom.tuning.study import Outcome, Search

MOST = 3  # trials that are trained at full length; short trainings on few images cannot tell which of them is best
KEPT = "confirmed "  # before the digest of a recipe: attribute of a study, the mask of correct validation images
POLL_SECONDS = 1.0


def contenders(chosen: ChosenTrial, rows: Sequence[TrialRow]) -> list[int]:
    """Return the numbers of the chosen trial, of others with other values, at most MOST, and of that of params.yaml."""
    numbers: list[int] = []
    for number in (chosen.number, *chosen.others):
        if number is not None and all(rows[number].params != rows[other].params for other in numbers):
            numbers.append(number)
    return [*numbers[:MOST], *([] if chosen.against is None else [chosen.against])]


def full_minutes(row: TrialRow, *, full: Recipe, short: Recipe, fraction: float) -> float:
    """Estimate the minutes of a training at full length, without the start of a worker.

    Args:
        row: the complete trial.
        full, short: params of the training, and of the trial.
        fraction: of the training images in the trial.
    """
    return n_epochs(full) / n_epochs(short) / fraction * row.metrics["train_seconds"] / 60


def confirm(
    chosen: ChosenTrial,
    *,
    search: Search,
    tasks: Sequence[trial.Task],
    minutes: Mapping[int, float],
    limit: float,
    workers: Callable[[int], Workers],
    alpha: float,
) -> ChosenTrial:
    """Return the trial to take after trainings at full length, or the values of params.yaml; see choice.confirmed.

    A training that an earlier call has finished is not repeated. One whose worker dies is tried once more.

    Args:
        tasks: of the contenders, in their order.
        minutes: expected for each training, by the number of its trial.
        limit: maximum of minutes for all trainings together, also those of earlier calls; the last trials are left out
            if they would take longer.
        workers: returns the workers for a number of trainings.
        alpha: see choice.choose.

    Raises:
        SearchError: workers died in both trainings of params.yaml, so nothing can be compared with it.
    """
    keys = {task.number: KEPT + digest(task.recipe) for task in tasks}
    kept = search.attributes
    right = {number: kept[key] for number, key in keys.items() if key in kept}
    failed: dict[int, str] = {}
    if len(right) < len(tasks):
        with workers(len(tasks)) as places:
            *trials, baseline = tasks
            while (expected := makespan([minutes[task.number] for task in (*trials, baseline)], places.n)) > limit:
                if len(trials) == 1 and baseline.number in right and len(right) > 1:  # of earlier calls
                    return confirmed(chosen, right=right, failed=failed, alpha=alpha)
                if len(trials) == 1:
                    takes = f"that takes about {expected:.1f} minutes, more than tune.confirm ({limit:g})"
                    return replace(chosen, reason=f"{chosen.reason}; not confirmed: {takes}")
                trials.pop()
            if missing := [task for task in (*trials, baseline) if task.number not in right]:
                names = ", ".join(task.name.partition(" ")[0] for task in missing)
                expected = makespan([minutes[task.number] for task in missing], places.n)
                say(f"tune: {names}: at full length on another seed, about {expected:.1f} minutes")
            for number, outcome in _trained(missing, places, search):
                if outcome.state == "complete":
                    right[number] = outcome.right
                    search.remember(keys[number], outcome.right)
                else:
                    failed[number] = outcome.reason or outcome.state
                if outcome.state == "killed" and number == baseline.number:
                    raise SearchError(
                        f"the training of params.yaml at full length was killed twice ({outcome.reason}); if memory "
                        "ran out, lower tune.workers; the other trainings are kept for the next `dvc repro`"
                    )
    return confirmed(chosen, right=right, failed=failed, alpha=alpha)


def makespan(minutes: Sequence[float], n_places: int) -> float:
    """Return the minutes until the last training ends, if each starts at the first free place."""
    ends = [0.0] * n_places
    for one in minutes:
        heapreplace(ends, ends[0] + one)
    return max(ends)


def _trained(tasks: Sequence[trial.Task], places: Workers, search: Search) -> Iterator[tuple[int, Outcome]]:
    """Yield the number and the outcome of every training as it ends, "killed" if its worker died twice.

    Tasks are queued here: one that is queued at a place is lost if the worker dies during the one before.
    """
    waiting, free = list(tasks), list(range(places.n))
    running: dict[Future[Outcome], tuple[int, trial.Task]] = {}
    died: set[int] = set()
    while waiting or running:
        search.beat()
        while waiting and free:
            task, place = waiting.pop(0), free.pop(0)
            running[places.submit(place, trial.confirm, task)] = (place, task)
        done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda one: one.exception() is not None):  # an error ends it
            place, task = running.pop(future)
            free.append(place)
            try:
                yield task.number, future.result()
            except WorkerDiedError as error:
                if task.number in died:
                    yield task.number, Outcome("killed", {}, reason=str(error))
                else:
                    waiting.append(task)
                died.add(task.number)
