"""Which trial of a search is worth more than the values of params.yaml. Pure; the standard library only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from darkroom.trial_rows import STATES, TrialRow, best_trial

FASTER = 0.9  # of a latency: another must stay below this share of it to count as smaller; timing is that noisy


@dataclass(frozen=True)
class Choice:
    """The trial whose values train takes, None for those of params.yaml; and why, in a sentence."""

    number: int | None
    reason: str


def choose(rows: Sequence[TrialRow], *, objectives: Sequence[str], n_val: int, alpha: float) -> Choice:
    """Return which trial's values are worth taking over those of params.yaml, which trial 0 has.

    With one objective: the most accurate trial, if it is more accurate than trial 0 by more than chance explains: a
    one-sided test of two proportions at alpha, divided by the number of trials (Bonferroni), since the best of many
    is better than one by chance alone. The test takes the two as independent, which they are not on the same images:
    it is on the safe side. With two: of the trials as accurate as the most accurate one, but for chance, the cheapest;
    trial 0 where that is among them and no cheaper one is.

    Args:
        objectives: val_accuracy first, then one of trial_rows.COSTS if there are two.
        n_val: number of validation images.
        alpha: in (0, 1).
    """
    complete = [row for row in rows if row.state == "complete" and row.feasible]
    baseline = next((row for row in rows if row.is_baseline and row.state == "complete"), None)
    if not complete:
        return Choice(None, "no trial that is complete keeps the limits; the values of params.yaml stay")
    best = max(complete, key=lambda row: (row.metrics["val_accuracy"], -row.number))
    quantile = NormalDist().inv_cdf(1 - alpha / max(1, len(complete) - 1))
    if len(objectives) > 1:
        return _cheapest(complete, best, baseline, cost=objectives[1], quantile=quantile, n_val=n_val)
    found = f"trial {best.number} has val accuracy {best.metrics['val_accuracy']:.4f}"
    if baseline is None or not baseline.feasible:
        why = "is not complete" if baseline is None else "does not keep the limits"
        return Choice(best.number, f"{found}; trial 0, the values of params.yaml, {why}")
    if best is baseline:
        return Choice(None, f"no trial is more accurate than the values of params.yaml ({_accuracy(baseline):.4f})")
    gain, noise = _accuracy(best) - _accuracy(baseline), quantile * _standard_error(best, baseline, n_val)
    against = f"{found}, {gain:+.4f} against the values of params.yaml; chance explains {noise:.4f}"
    return Choice(best.number, against) if gain > noise else Choice(None, f"{against}: those of params.yaml stay")


def summary(rows: Sequence[TrialRow]) -> dict[str, float]:
    """Return the metrics of a whole search: how many trials ended in which way, and the best validation accuracies."""
    found = {f"n_{state}": float(sum(row.state == state for row in rows)) for state in STATES}
    accuracies = {
        "best_val_accuracy": best_trial(rows),
        "baseline_val_accuracy": next((row for row in rows if row.is_baseline and row.state == "complete"), None),
    }
    return found | {name: _accuracy(row) for name, row in accuracies.items() if row is not None}


def _cheapest(
    complete: Sequence[TrialRow],
    best: TrialRow,
    baseline: TrialRow | None,
    *,
    cost: str,
    quantile: float,
    n_val: int,
) -> Choice:
    equal = [
        row for row in complete if _accuracy(best) - _accuracy(row) <= quantile * _standard_error(best, row, n_val)
    ]
    cheapest = min(equal, key=lambda row: (row.metrics[cost], -_accuracy(row), row.number))
    found = f"trial {cheapest.number} has {cost} {cheapest.metrics[cost]:.4g} at val accuracy {_accuracy(cheapest):.4f}"
    if baseline in equal and baseline is not None:
        enough = FASTER if cost == "latency_ms" else 1.0
        if cheapest is baseline or cheapest.metrics[cost] >= enough * baseline.metrics[cost]:
            return Choice(None, f"{found}, no less than the values of params.yaml: those stay")
    return Choice(cheapest.number, f"{found}; the most accurate trial, {best.number}, has {_accuracy(best):.4f}")


def _accuracy(row: TrialRow) -> float:
    return row.metrics["val_accuracy"]


def _standard_error(one: TrialRow, other: TrialRow, n_images: int) -> float:
    """Return the standard error of the difference of two accuracies; an image right or wrong is added to each, so that
    two of 1.0 are not taken for certain (Agresti & Caffo 2000)."""
    variance = 0.0
    for row in (one, other):
        smoothed = (row.metrics["val_accuracy"] * n_images + 1) / (n_images + 2)
        variance += smoothed * (1 - smoothed) / (n_images + 2)
    return math.sqrt(variance)
