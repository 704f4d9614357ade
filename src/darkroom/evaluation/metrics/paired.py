"""Paired statistics of two classifiers on the same images. Pure.

Only images on which the two disagree show which is better, so everything here starts from four counts.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from darkroom.errors import DataError

EXACT_BELOW = 25  # disagreements; see mcnemar


class Table(NamedTuple):
    """Numbers of images that both, only a, only b, and neither classify correctly."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n_images(self) -> int:
        return sum(self)

    @property
    def difference(self) -> float:
        """The accuracy of a minus that of b, in [-1, 1]."""
        return (self.only_a - self.only_b) / self.n_images


def table(a: np.ndarray, b: np.ndarray) -> Table:
    """Return the four counts.

    Args:
        a, b: (n,), bool: the image was classified correctly; the same images in the same order, at least one.

    Raises:
        DataError: no images, or the shapes differ.
    """
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0:
        raise DataError(f"two models were scored on {a.shape} and {b.shape} images, expected (n,) twice with n >= 1")
    a, b = a.astype(bool), b.astype(bool)
    return Table(int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum()), int((~a & ~b).sum()))


def mcnemar(only_a: int, only_b: int) -> tuple[float, str]:
    """Return the two-sided p-value of McNemar's test (1947) and its form: "exact" or "mid-p".

    If two models are equally good, each image on which they disagree falls to either side with probability 1/2. Below
    25 disagreements the p-value is the exact binomial one, which keeps its level but is conservative; otherwise the
    mid-p one, which counts half of the observed outcome: it needs fewer images to detect the same difference and keeps
    the level in practice (Fagerland, Lydersen & Laake 2013). Without disagreements it is 1.

    >>> p_value, form = mcnemar(14, 2)  # only a is correct on 14 images, only b on 2
    >>> f"{p_value:.4f}", form
    ('0.0042', 'exact')
    """
    p_value, form = gain_p_value(max(only_a, only_b), min(only_a, only_b))
    return min(1.0, 2 * p_value), form


def gain_p_value(only_a: int, only_b: int) -> tuple[float, str]:
    """Return the one-sided p-value of McNemar's test that a is better than b, and its form; see mcnemar.

    >>> f"{gain_p_value(14, 2)[0]:.4f}"
    '0.0021'
    """
    from scipy.special import bdtr  # 0.3 s; scipy.stats would take 1 s more

    n_disagreements = only_a + only_b
    at_most = float(bdtr(only_b, n_disagreements, 0.5))
    if n_disagreements < EXACT_BELOW:
        return at_most, "exact"
    fewer = float(bdtr(only_b - 1, n_disagreements, 0.5)) if only_b else 0.0
    return (at_most + fewer) / 2, "mid-p"


def mean_gain_p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Return the one-sided p-value of a paired t-test that the mean of a is below that of b.

    Args:
        a, b: (n,), float, losses on the same images, such as the log loss.

    Returns:
        in [0, 1]; 1 for fewer than two images.
    """
    from scipy.special import stdtr

    gains = b - a
    if len(gains) < 2:
        return 1.0
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    if error == 0:
        return 1.0 if gains[0] <= 0 else 0.0
    return float(stdtr(len(gains) - 1, -float(gains.mean()) / error))


def overstated_accuracy(correct: np.ndarray, gains: np.ndarray, *, level: float) -> float:
    """Return by how much the accuracy of a model is overstated because only a significant gain was accepted.

    A gain that is reported only if it passes a threshold is too large on average (the winner's curse). The true gain is
    estimated by conditional maximum likelihood, given that it passed (Zhong & Prentice 2008), but not below 0. The
    accuracy is overstated by the part of the excess that follows from its regression on the gain.

    Args:
        correct: (n,), bool: the model was right.
        gains: (n,), float: gain per image in the tested statistic.
        level: of the one-sided test that was passed, below 1/2.

    Returns:
        a difference of accuracies, at least 0; 0 for a gain that was not significant.
    """
    from scipy.special import ndtr, ndtri

    error = float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    least = float(ndtri(1 - level))
    if error == 0 or (found := float(gains.mean()) / error) <= least:
        return 0.0
    low, high = 0.0, found
    for _ in range(50):  # bisection: the expectation grows with the true gain
        middle = (low + high) / 2
        above = middle - least
        expected = middle + math.exp(-(above**2) / 2) / math.sqrt(2 * math.pi) / float(ndtr(above))
        low, high = (middle, high) if expected < found else (low, middle)
    covariance = float(np.cov(correct, gains)[0, 1])
    return max(0.0, covariance / float(gains.var(ddof=1)) * error * (found - low))


def loss_p_values(only_a: Sequence[int] | np.ndarray, only_b: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the exact one-sided p-values that a is worse than b, one per pair of counts.

    Args:
        only_a, only_b: (m,), int.

    Returns:
        (m,), float in (0, 1]; 1 where nothing was lost.
    """
    from scipy.special import bdtr

    for_a, for_b = np.asarray(only_a), np.asarray(only_b)
    p_values: np.ndarray = bdtr(for_a.astype(float), for_a + for_b, 0.5)  # 1 where nothing was lost
    return p_values


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the p-values adjusted for their number by Holm's step-down method (1979): (m,), float, in the same order.

    If adjusted values up to alpha count as significant, the probability of any false alarm is at most alpha, however
    the tests depend on each other.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def difference_interval(counts: Table, *, level: float = 0.95) -> tuple[float, float]:
    """Return the adjusted Wald interval of the difference of the accuracies of a and b (Bonett & Price 2012).

    One image for a and one for b are added first, so that a table without losses does not prove that there are none.

    Args:
        level: of confidence, in (0, 1).

    Returns:
        low, high: in [-1, 1].
    """
    from scipy.special import ndtri

    n_images = counts.n_images + 2
    for_a, for_b = (counts.only_a + 1) / n_images, (counts.only_b + 1) / n_images
    difference = for_a - for_b
    margin = float(ndtri((1 + level) / 2)) * math.sqrt((for_a + for_b - difference**2) / n_images)
    return max(-1.0, difference - margin), min(1.0, difference + margin)


def compare(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the comparison of two models on the same images, as values for JSON; differences are a minus b.

    Args:
        a, b: (n,), bool: the image was classified correctly.
        labels: (n,), str: its true class.

    Returns:
        n_images, accuracy_a, accuracy_b, difference, difference_ci95: [low, high];
        n_both_correct, n_only_a_correct, n_only_b_correct, n_both_wrong;
        p_value, test: of McNemar's test, and its form ("exact" or "mid-p");
        per_class: by class name, sorted, {n_images, recall_a, recall_b, difference, n_only_a_correct, n_only_b_correct,
        p_value, p_value_holm}; the last is adjusted for the number of classes.

    Raises:
        DataError: no images, or the shapes differ.
    """
    counts = table(a, b)
    if labels.shape != a.shape:
        raise DataError(f"got labels of shape {labels.shape} for {a.shape} images")
    p_value, form = mcnemar(counts.only_a, counts.only_b)
    names = np.unique(labels).tolist()
    tables = [table(a[labels == name], b[labels == name]) for name in names]
    p_values = [mcnemar(of_class.only_a, of_class.only_b)[0] for of_class in tables]
    return {
        "n_images": counts.n_images,
        "accuracy_a": float(a.mean()),
        "accuracy_b": float(b.mean()),
        "difference": counts.difference,
        "difference_ci95": list(difference_interval(counts)),
        "n_both_correct": counts.both,
        "n_only_a_correct": counts.only_a,
        "n_only_b_correct": counts.only_b,
        "n_both_wrong": counts.neither,
        "p_value": p_value,
        "test": form,
        "per_class": {
            str(name): {
                "n_images": of_class.n_images,
                "recall_a": (of_class.both + of_class.only_a) / of_class.n_images,
                "recall_b": (of_class.both + of_class.only_b) / of_class.n_images,
                "difference": of_class.difference,
                "n_only_a_correct": of_class.only_a,
                "n_only_b_correct": of_class.only_b,
                "p_value": own,
                "p_value_holm": adjusted,
            }
            for name, of_class, own, adjusted in zip(names, tables, p_values, holm(p_values).tolist(), strict=True)
        },
    }
