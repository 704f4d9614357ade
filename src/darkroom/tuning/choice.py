"""Choose a trial that beats the values of params.yaml, by the validation images that each gets right. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from darkroom.training.answers import unpacked
from darkroom.tuning.rows import FINISHED, STATES, TrialRow, best_trial

WORSE = 0.05  # maximum significance level at which a trial counts as less accurate, where it may be cheaper
FASTER = 0.9  # a latency counts as smaller only below this share of another one, because timing is noisy
N_SWAPS = 9999  # permutations of chance(), for levels down to 1/10,000
SWAP_BYTES = 64_000_000  # memory of the permutations


@dataclass(frozen=True)
class ChosenTrial:
    """The choice of a search.

    Attributes:
        number: of the trial whose values train uses, None for those of params.yaml.
        reason: a sentence.
        against: number of the trial with the values of params.yaml that it beats, None without a comparison.
        others: numbers of the other trials that beat them, the most accurate first; none if cost is an objective.
        is_cheaper: whether it beats them by its cost, so that it need not be more accurate.
    """

    number: int | None
    reason: str
    against: int | None = None
    others: tuple[int, ...] = ()
    is_cheaper: bool = False


def choose(rows: Sequence[TrialRow], *, objectives: Sequence[str], alpha: float) -> ChosenTrial:
    """Choose between the trials and the values of params.yaml, which trial 0 has.

    With one objective: the most accurate of the trials that are significantly more accurate than trial 0, see chance(),
    at level alpha. The test covers chance in drawing validation images, not in training.
    With two: the cheapest of the trials that are significantly more accurate than trial 0, or not less accurate and
    cheaper, and not significantly less accurate than the most accurate one.

    If trial 0 failed or exceeds a limit, its values cannot be chosen; if it did not finish, they are kept.

    Args:
        objectives: val_accuracy first, then one of rows.COSTS if there are two.
        alpha: in (0, 1]; with 1 the most accurate trial is chosen.
    """
    complete = [row for row in rows if row.state == "complete" and row.feasible]
    tried = [row for row in rows if row.is_baseline and row.state in FINISHED]
    baseline = tried[-1] if tried else None
    if baseline is None or baseline.state == "pruned":
        return ChosenTrial(
            None, "trial 0, the values of params.yaml, did not finish, so no trial can be compared with it"
        )
    if not complete:
        return ChosenTrial(None, "no trial finished within the limits; the values of params.yaml are kept")
    n_pruned = sum(row.state == "pruned" for row in rows)
    best = max(complete, key=lambda row: (_accuracy(row), -row.number))
    cost = objectives[1] if len(objectives) > 1 else None
    if cost is not None:
        worse = _better(best, complete, alpha=alpha, n_pruned=n_pruned, reverse=True)
        complete = [row for row in complete if row.number not in worse]
        best = min(complete, key=lambda row: (row.metrics[cost], -_accuracy(row), row.number))
    if baseline.state == "failed" or not baseline.feasible:
        why = "failed" if baseline.state == "failed" else "exceeds a limit"
        return ChosenTrial(best.number, f"{_found(best, cost)}; trial 0, the values of params.yaml, {why}")
    rivals = [row for row in complete if not row.is_baseline]
    better = _better(baseline, rivals, alpha=alpha, n_pruned=n_pruned)
    if cost is not None:
        worse = _better(baseline, rivals, alpha=alpha, n_pruned=n_pruned, reverse=True)
        return _best_of_two(rivals, baseline, cost=cost, better=better, worse=worse)
    if _accuracy(best) <= _accuracy(baseline):
        return ChosenTrial(
            None, f"no trial is more accurate than the values of params.yaml ({_accuracy(baseline):.4f})"
        )
    taken = sorted((row for row in rivals if row.number in better), key=_accuracy, reverse=True)
    if not taken:
        against = _against(best, baseline)
        return ChosenTrial(None, f"{against}, which is within chance: the values of params.yaml are kept")
    numbers = [row.number for row in taken]
    return ChosenTrial(numbers[0], _against(taken[0], baseline), baseline.number, tuple(numbers[1:]))


def confirmed(chosen: ChosenTrial, *, right: Mapping[int, str], failed: Mapping[int, str], alpha: float) -> ChosenTrial:
    """Return the choice after trainings at full length with its values, those of others, and those of params.yaml.

    The most accurate trial is taken if it is more accurate than params.yaml again; one that is cheaper, if it is not
    significantly less accurate. If params.yaml failed, no comparison is possible, and the trial is taken.

    Args:
        chosen: by choose().
        right: masks of the validation images that the trainings get right (see answers.packed), by number of the trial.
        failed: the reasons of those that failed, likewise.
        alpha: see choose.
    """
    answers: dict[int | None, np.ndarray] = {number: unpacked(mask) for number, mask in right.items()}
    results: dict[int | None, str] = {number: f"{ours.mean():.4f}" for number, ours in answers.items()}
    results |= {number: f"failed ({why})" for number, why in failed.items()}
    numbers = [number for number in (chosen.number, *chosen.others, chosen.against) if number in results]
    names = ["params.yaml" if number == chosen.against else f"trial {number}" for number in numbers]
    said = ", ".join(f"{name} {results[number]}" for name, number in zip(names, numbers, strict=True))
    reason = f"{chosen.reason}; at full length on another seed: {said}"
    theirs = answers.pop(chosen.against, None)
    trials = [number for number in numbers if number in answers]
    best = max(trials, key=lambda number: answers[number].sum(), default=None)
    if best is None or (theirs is not None and _is_refuted(answers[best], theirs, chosen, alpha=alpha)):
        return ChosenTrial(None, f"{reason}; the values of params.yaml are kept")
    return ChosenTrial(best, f"{reason}; trial {best} is taken", chosen.against)


def _is_refuted(ours: np.ndarray, theirs: np.ndarray, chosen: ChosenTrial, *, alpha: float) -> bool:
    difference = theirs.astype(np.int8) - ours
    if not chosen.is_cheaper:
        return bool(difference.sum() >= 0)
    return bool(difference.sum() > 0 and chance(difference[None])[0] <= min(alpha, WORSE))


def chance(differences: np.ndarray, *, n_more: int = 0) -> np.ndarray:
    """Return p-values for trials being better than a reference, corrected for their number.

    A max-t permutation test (Westfall & Young 1993). If a trial and the reference are equally good, an image that only
    one of them gets right might as well be the other's. So on random halves of the images the answers of all trials are
    swapped with those of the reference, and the maximum of McNemar's statistics is recorded. Trials that are right on
    the same images need less correction than others.

    Args:
        differences: int (trials, images): 1 where only the trial is right, -1 where only the reference is, else 0.
        n_more: number of further trials whose answers are unknown; each counts as independent of all others.

    Returns:
        (trials,), in (0, 1].
    """
    told = differences[:, (differences != 0).any(axis=0)].astype(np.float32)
    told /= np.sqrt((told**2).sum(axis=1, keepdims=True)).clip(1)
    observed = told.sum(axis=1)
    rng, n_above = np.random.default_rng(0), np.ones(len(told))
    step = max(1, SWAP_BYTES // max(1, 4 * told.shape[1]))
    for start in range(0, N_SWAPS, step):
        swaps = rng.integers(0, 2, (min(step, N_SWAPS - start), told.shape[1]), dtype=np.int8)
        greatest = ((2 * swaps - 1).astype(np.float32) @ told.T).max(axis=1)
        n_above += (greatest[:, None] >= observed - 1e-4).sum(axis=0)
    alone = np.array([NormalDist().cdf(-value) for value in observed.tolist()])
    return np.asarray(1 - (1 - n_above / (N_SWAPS + 1)) * (1 - alone) ** n_more)


def summary(rows: Sequence[TrialRow]) -> dict[str, float]:
    """Return the metrics of a search: numbers of trials by how they ended, and the best validation accuracies."""
    found = {f"n_{state}": float(sum(row.state == state for row in rows)) for state in STATES}
    accuracies = {
        "best_val_accuracy": best_trial(rows),
        "baseline_val_accuracy": next((row for row in rows if row.is_baseline and row.state == "complete"), None),
    }
    return found | {name: _accuracy(row) for name, row in accuracies.items() if row is not None}


def _best_of_two(
    accurate: Sequence[TrialRow], baseline: TrialRow, *, cost: str, better: set[int], worse: set[int]
) -> ChosenTrial:
    """Choose the cheapest of the accurate trials that is better than the baseline, in accuracy or in cost."""
    limit = baseline.metrics[cost] * (FASTER if cost == "latency_ms" else 1.0)
    taken = [row for row in accurate if row.number in better or (row.number not in worse and row.metrics[cost] < limit)]
    had = (
        f"the values of params.yaml have val accuracy {_accuracy(baseline):.4f} and {cost} {baseline.metrics[cost]:.4g}"
    )
    if not taken:
        return ChosenTrial(None, f"no trial is significantly better: {had}")
    best = min(taken, key=lambda row: (row.metrics[cost], -_accuracy(row), row.number))
    is_cheaper = best.metrics[cost] < limit
    return ChosenTrial(best.number, f"{_found(best, cost)}; {had}", baseline.number, is_cheaper=is_cheaper)


def _better(one: TrialRow, rows: Sequence[TrialRow], *, alpha: float, n_pruned: int, reverse: bool = False) -> set[int]:
    """Return the numbers of the trials that are significantly more accurate than one.

    Args:
        reverse: return the significantly less accurate ones instead.
    """
    if not rows:
        return set()
    differences = np.array([unpacked(row.right) for row in rows], np.int8) - unpacked(one.right)
    if reverse:
        differences, alpha = -differences, min(alpha, WORSE)
    found = (chance(differences, n_more=n_pruned) <= alpha) & (differences.sum(axis=1) > 0)
    return {row.number for row, is_better in zip(rows, found, strict=True) if is_better}


def _against(row: TrialRow, baseline: TrialRow) -> str:
    ours, theirs = unpacked(row.right), unpacked(baseline.right)
    gain = f"{_found(row)}, {_accuracy(row) - _accuracy(baseline):+.4f} against the values of params.yaml"
    return f"{gain}: it alone is right on {(ours & ~theirs).sum()} images, they alone on {(theirs & ~ours).sum()}"


def _found(row: TrialRow, cost: str | None = None) -> str:
    return f"trial {row.number} has val accuracy {_accuracy(row):.4f}" + (
        f" and {cost} {row.metrics[cost]:.4g}" if cost else ""
    )


def _accuracy(row: TrialRow) -> float:
    return row.metrics["val_accuracy"]
