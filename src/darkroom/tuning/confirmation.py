"""Confirm a choice: train the best trials and the values of params.yaml at full length, on another seed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.project.console import say
from darkroom.project.params import digest
from darkroom.training import recipe
from darkroom.tuning import trial
from darkroom.tuning.choice import ChosenTrial, confirmed
from darkroom.tuning.rows import TrialRow
from darkroom.tuning.study import Outcome, Search

MOST = 3  # trials that are trained at full length; short trainings on few images do not rank the best ones reliably
KEPT = "confirmed"  # attribute of a study: masks of correct validation images, by the digest of the recipes


def confirm(
    chosen: ChosenTrial,
    *,
    search: Search,
    tasks: Sequence[trial.Task],
    workers: Callable[[], Workers],
    minutes: float,
    objectives: Sequence[str],
    alpha: float,
) -> ChosenTrial:
    """Return the trial that is the best at full length, or the values of params.yaml if no training beats theirs.

    A continued search with the same trials does not train again unless a training failed.

    Args:
        tasks: with the values of the chosen trial, of others, and at the end with those of params.yaml.
        workers: returns the workers.
        minutes: expected time; see expected_minutes().
        objectives, alpha: see choice.choose.
    """
    key = digest([task.recipe for task in tasks])
    masks = search.attributes.get(KEPT, {}).get(key)
    if masks is None:
        names = ", ".join(task.name.partition(" ")[0] for task in tasks)
        say(f"tune: {names}: at full length on another seed, about {minutes:.0f} minutes")
        *ours, theirs = outcomes = _trained(tasks, workers)
        ended = [task.number for task, outcome in zip(tasks[:-1], ours, strict=True) if outcome.state == "complete"]
        if not ended:
            reason = f"{chosen.reason}; but at full length it failed ({ours[0].reason})"
            return ChosenTrial(None, f"{reason}: the values of params.yaml are kept")
        if theirs.state != "complete":
            reason = f"{chosen.reason}; at full length the values of params.yaml failed ({theirs.reason})"
            return ChosenTrial(ended[0], reason, chosen.against)
        masks = [outcome.right for outcome in outcomes]  # "" of one that failed
        if len(ended) == len(ours):
            search.remember(KEPT, {key: masks})
    *rights, against = masks
    right = {task.number: mask for task, mask in zip(tasks[:-1], rights, strict=True) if mask}
    return confirmed(chosen, right=right, against=against, objectives=objectives, alpha=alpha)


def expected_minutes(
    rows: Sequence[TrialRow], full: recipe.Recipe, short: recipe.Recipe, *, fraction: float, n_places: int
) -> float:
    """Estimate how long the trainings at full length of these trials take.

    Args:
        rows: of the trials, which are complete.
        full, short: the params, and those of a trial.
        fraction: of the training images in a trial.
        n_places: number of parallel trainings.
    """
    ratio = recipe.n_epochs(full) / recipe.n_epochs(short) / fraction
    seconds = [row.metrics["train_seconds"] for row in rows]  # without the start of a worker, which loads TensorFlow
    return ratio * max(sum(seconds[place::n_places]) for place in range(n_places)) / 60


def _trained(tasks: Sequence[trial.Task], workers: Callable[[], Workers]) -> list[Outcome]:
    with workers() as places:
        ending = [places.submit(number % places.n, trial.confirm, task) for number, task in enumerate(tasks)]
        return [_ended(future) for future in ending]


def _ended(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except WorkerDiedError as error:
        return Outcome("failed", {}, reason=str(error))
