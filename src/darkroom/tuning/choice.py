"""Choose the trial that beats the values of params.yaml. Pure; standard library only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from darkroom.tuning.rows import FINISHED, STATES, TrialRow, best_trial

FASTER = 0.9  # of a latency: another must stay below this share of it to count as smaller; timing is that noisy


@dataclass(frozen=True)
class ChosenTrial:
    """The trial whose values train takes, None for those of params.yaml; and why, in a sentence."""

    number: int | None
    reason: str


def choose(rows: Sequence[TrialRow], *, objectives: Sequence[str], n_val: int, alpha: float) -> ChosenTrial:
    """Return which trial's values are worth taking over those of params.yaml, which trial 0 has.

    With one objective: the most accurate trial, if it is more accurate than trial 0 by more than chance explains: a
    one-sided test of two proportions at alpha, divided by the number of trials that competed (Bonferroni), since the
    best of many is better than one by chance alone. The test takes the two as independent, which they are not on the
    same images: it is on the safe side. It knows the chance in drawing validation images, not that in training.
    With two: the cheapest of the trials that are more accurate than trial 0 in this sense, or as accurate and cheaper,
    and as accurate as the most accurate one.

    Where trial 0 failed, or is beyond a limit, its values are no choice; where it did not come to its end, nothing can
    be told, and they stay.

    Args:
        objectives: val_accuracy first, then one of rows.COSTS if there are two.
        n_val: number of validation images.
        alpha: in (0, 1).
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
    n_rivals = sum(row.state in ("complete", "pruned") and not row.is_baseline for row in rows)
    noise_of = _Noise(NormalDist().inv_cdf(1 - alpha / max(1, n_rivals)), n_val)
    best = max(complete, key=lambda row: (_accuracy(row), -row.number))
    cost = objectives[1] if len(objectives) > 1 else None
    if cost is not None:
        complete = [row for row in complete if _accuracy(best) - _accuracy(row) <= noise_of(best, row)]
        best = min(complete, key=lambda row: (row.metrics[cost], -_accuracy(row), row.number))
    found = f"trial {best.number} has val accuracy {_accuracy(best):.4f}"
    if cost is not None:
        found += f" and {cost} {best.metrics[cost]:.4g}"
    if baseline.state == "failed" or not baseline.feasible:
        why = "failed" if baseline.state == "failed" else "exceeds a limit"
        return ChosenTrial(best.number, f"{found}; trial 0, the values of params.yaml, {why}")
    if cost is not None:
        return _best_of_two(complete, baseline, cost=cost, noise_of=noise_of)
    if best is baseline:
        return ChosenTrial(
            None, f"no trial is more accurate than the values of params.yaml ({_accuracy(baseline):.4f})"
        )
    gain, noise = _accuracy(best) - _accuracy(baseline), noise_of(best, baseline)
    against = f"{found}, {gain:+.4f} against the values of params.yaml; the noise is {noise:.4f}"
    return (
        ChosenTrial(best.number, against)
        if gain > noise
        else ChosenTrial(None, f"{against}: the values of params.yaml are kept")
    )


def summary(rows: Sequence[TrialRow]) -> dict[str, float]:
    """Return the metrics of a whole search: how many trials ended in which way, and the best validation accuracies."""
    found = {f"n_{state}": float(sum(row.state == state for row in rows)) for state in STATES}
    accuracies = {
        "best_val_accuracy": best_trial(rows),
        "baseline_val_accuracy": next((row for row in rows if row.is_baseline and row.state == "complete"), None),
    }
    return found | {name: _accuracy(row) for name, row in accuracies.items() if row is not None}


def _best_of_two(accurate: Sequence[TrialRow], baseline: TrialRow, *, cost: str, noise_of: "_Noise") -> ChosenTrial:
    """Return the cheapest of the accurate trials that is better than the baseline, in accuracy or in cost."""
    limit = baseline.metrics[cost] * (FASTER if cost == "latency_ms" else 1.0)
    better = []
    for row in accurate:
        gain, noise = _accuracy(row) - _accuracy(baseline), noise_of(row, baseline)
        if gain > noise or (gain >= -noise and row.metrics[cost] < limit):
            better.append(row)
    had = (
        f"the values of params.yaml have val accuracy {_accuracy(baseline):.4f} and {cost} {baseline.metrics[cost]:.4g}"
    )
    if not better:
        return ChosenTrial(None, f"no trial is significantly better: {had}")
    best = min(better, key=lambda row: (row.metrics[cost], -_accuracy(row), row.number))
    found = f"trial {best.number} has val accuracy {_accuracy(best):.4f} and {cost} {best.metrics[cost]:.4g}"
    return ChosenTrial(best.number, f"{found}; {had}")


def _accuracy(row: TrialRow) -> float:
    return row.metrics["val_accuracy"]


@dataclass(frozen=True)
class _Noise:
    """The noise in the difference of two accuracies.

    An image right or wrong is added to each, so that two of 1.0 are not taken for certain (Agresti & Caffo 2000).
    """

    quantile: float
    n_images: int

    def __call__(self, one: TrialRow, other: TrialRow) -> float:
        variance = 0.0
        for row in (one, other):
            smoothed = (_accuracy(row) * self.n_images + 1) / (self.n_images + 2)
            variance += smoothed * (1 - smoothed) / (self.n_images + 2)
        return self.quantile * math.sqrt(variance)
