"""Confirm a choice by training with it and with the values of params.yaml, at full length, on another seed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.project.console import say
from darkroom.project.params import digest
from darkroom.training import recipe
from darkroom.tuning import trial
from darkroom.tuning.choice import ChosenTrial, confirmed
from darkroom.tuning.rows import TrialRow
from darkroom.tuning.study import Outcome, Search

KEPT = "confirmed"  # attribute of a study: masks of correct validation images, by the digest of both recipes


def confirm(
    chosen: ChosenTrial,
    *,
    search: Search,
    tasks: Sequence[trial.Task],
    workers: Callable[[], Workers],
    objectives: Sequence[str],
    alpha: float,
) -> ChosenTrial:
    """Return the choice, or that of params.yaml if the trainings do not confirm it.

    A continued search with the same choice does not train again unless a training failed.

    Args:
        tasks: with the chosen values, and with those of params.yaml.
        workers: returns the workers.
        objectives, alpha: see choice.choose.
    """
    kept = search.attributes.get(KEPT, {})
    key = digest([task.recipe for task in tasks])
    if key not in kept:
        ours, theirs = _trained(tasks, workers)
        if ours.state != "complete":
            reason = f"{chosen.reason}; but at full length it failed ({ours.reason})"
            return ChosenTrial(None, f"{reason}: the values of params.yaml are kept")
        if theirs.state != "complete":
            reason = f"{chosen.reason}; at full length the values of params.yaml failed ({theirs.reason})"
            return replace(chosen, reason=reason)
        kept = {key: [ours.right, theirs.right]}
        search.remember(KEPT, kept)
    right, against = kept[key]
    return confirmed(chosen, right=right, against=against, objectives=objectives, alpha=alpha)


def expected_minutes(rows: Sequence[TrialRow], full: recipe.Recipe, short: recipe.Recipe, *, fraction: float) -> float:
    """Estimate how long the trainings at full length of these trials take together.

    Args:
        rows: of the trials.
        full, short: the params, and those of a trial.
        fraction: of the training images in a trial.
    """
    ratio = recipe.n_epochs(full) / recipe.n_epochs(short) / fraction
    return ratio * sum(row.seconds or 0.0 for row in rows) / 60


def _trained(tasks: Sequence[trial.Task], workers: Callable[[], Workers]) -> list[Outcome]:
    with workers() as places:
        names = ", ".join(task.name.partition(" ")[0] for task in tasks)
        say(f"tune: {names}: at full length on another seed")
        ending = [places.submit(number % places.n, trial.confirm, task) for number, task in enumerate(tasks)]
        return [_ended(future) for future in ending]


def _ended(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except WorkerDiedError as error:
        return Outcome("failed", {}, reason=str(error))
