"""Split conformal prediction: sets of classes that contain the true one with a given probability.

The threshold is a quantile of the scores of images that were used for nothing else (Vovk et al. 2005; Lei et al. 2018).
If they and a new image are exchangeable, the true class is in the set with at least that probability, for any model.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from darkroom.evaluation.metrics.classification import accuracy_interval

ROUNDING = 1e-9  # of a product of floats: 0.07 * 100 is more than 7


def least_calibration_images(coverage: float) -> int:
    """Return the number of calibration images that is needed before a set may leave out a class.

    >>> least_calibration_images(0.95)
    19
    """
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def score_threshold(scores: np.ndarray, coverage: float) -> float:
    """Return the threshold up to which a class must be listed: the ceil((n + 1) coverage)-th smallest score.

    Infinity, which lists every class, with fewer than least_calibration_images().

    Args:
        scores: (n,), of the true class of each calibration image; classes with smaller scores are listed first.
        coverage: in (0, 1).
    """
    rank = math.ceil((len(scores) + 1) * coverage - ROUNDING)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def measure(members: np.ndarray, labels: np.ndarray, *, classes: Sequence[str]) -> dict[str, Any]:
    """Return coverage and size of prediction sets, as values for JSON.

    Returns:
        coverage, with its 95 % interval (Wilson), and mean_set_size, with that of a mean (normal), under NAME_ci95.
        sets_per_class: the same for the images of each class; None without images.

    Args:
        members: (n, classes), bool: which classes are listed; n at least 1.
        labels: (n,), int, in [0, classes).
        classes: the class names, in the order of the columns.
    """
    covered, sizes = members[np.arange(len(labels)), labels], members.sum(axis=1)
    rows = {name: labels == number for number, name in enumerate(classes)}
    per_class = {name: _measured(covered[own], sizes[own]) for name, own in rows.items()}
    return {**_measured(covered, sizes), "sets_per_class": per_class}


def _measured(covered: np.ndarray, sizes: np.ndarray) -> dict[str, Any]:
    if not len(sizes):
        return dict.fromkeys(("coverage", "coverage_ci95", "mean_set_size", "mean_set_size_ci95"))
    mean, margin = float(sizes.mean()), 1.96 * float(sizes.std()) / math.sqrt(len(sizes))
    return {
        "coverage": float(covered.mean()),
        "coverage_ci95": list(accuracy_interval(covered)),
        "mean_set_size": mean,
        "mean_set_size_ci95": [mean - margin, mean + margin],
    }
