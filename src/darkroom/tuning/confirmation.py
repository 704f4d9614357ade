"""Confirm a choice: train the best trials and the values of params.yaml at full length, on another seed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from heapq import heapreplace

from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.project.console import say
from darkroom.project.params import digest
from darkroom.tuning import trial
from darkroom.tuning.choice import ChosenTrial, confirmed
from darkroom.tuning.study import Outcome, Search

MOST = 3  # trials that are trained at full length; short trainings on few images cannot tell which of them is best
KEPT = "confirmed"  # attribute of a study: masks of correct validation images, by the digest of the recipe
POLL_SECONDS = 1.0


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
    """Return the trial that is the most accurate at full length, or the values of params.yaml if they are.

    A training that an earlier call has finished is not repeated.

    Args:
        tasks: with the values of the chosen trial, of others in the order in which they are wanted, and with those of
            params.yaml at the end.
        minutes: expected for each training, by the number of its trial.
        limit: maximum of all minutes; the last of the others are left out if they would take longer.
        workers: returns the workers for a number of trainings.
        alpha: see choice.choose.
    """
    kept = search.attributes.get(KEPT, {})
    keys = {task.number: digest(task.recipe) for task in tasks}
    right = {number: kept[key] for number, key in keys.items() if key in kept}
    failed: dict[int, str] = {}
    if missing := [task for task in tasks if task.number not in right]:
        optional = [task for task in missing if task not in (tasks[0], tasks[-1])]
        with workers(len(missing)) as places:
            while (expected := makespan([minutes[task.number] for task in missing], places.n)) > limit:
                if not optional:
                    takes = f"that takes about {expected:.1f} minutes, more than tune.confirm ({limit:g})"
                    return replace(chosen, reason=f"{chosen.reason}; not confirmed: {takes}")
                missing.remove(optional.pop())
            names = ", ".join(task.name.partition(" ")[0] for task in missing)
            say(f"tune: {names}: at full length on another seed, about {expected:.1f} minutes")
            for number, outcome in _trained(missing, places, search):
                if outcome.state == "complete":
                    right[number] = outcome.right
                    search.remember(KEPT, {keys[done]: mask for done, mask in right.items()})
                else:
                    failed[number] = outcome.reason or outcome.state
    return confirmed(chosen, right=right, failed=failed, alpha=alpha)


def makespan(minutes: Sequence[float], n_places: int) -> float:
    """Return the minutes in which trainings end, each of which starts at the first free place."""
    ends = [0.0] * n_places
    for one in minutes:
        heapreplace(ends, ends[0] + one)
    return max(ends)


def _trained(tasks: Sequence[trial.Task], places: Workers, search: Search) -> Iterator[tuple[int, Outcome]]:
    """Yield the number and the outcome of every training as it ends.

    A task waits here and not at its place for the end of the one before, because it would die with it.
    """
    waiting, free = list(tasks), list(range(places.n))
    running: dict[Future[Outcome], tuple[int, int]] = {}
    while waiting or running:
        search.beat()
        while waiting and free:
            task, place = waiting.pop(0), free.pop(0)
            running[places.submit(place, trial.confirm, task)] = (place, task.number)
        done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda one: one.exception() is not None):  # an error ends it
            place, number = running.pop(future)
            free.append(place)
            yield number, _ended(future)


def _ended(future: "Future[Outcome]") -> Outcome:
    try:
        return future.result()
    except WorkerDiedError as error:
        return Outcome("failed", {}, reason=str(error))
