"""The probability below which a model should abstain, so that at most a given share of its answers is wrong.

Learn then test (Angelopoulos et al. 2021) by fixed-sequence testing: thresholds are tested in an order that does not
depend on the calibration images, from one that should pass down to the smallest, and the last one before the first
failure is taken. Because testing stops at a failure, all tests together have the error probability of one.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from darkroom.evaluation.metrics.classification import accuracy_interval

N_THRESHOLDS = 100
ALWAYS = 2.0  # above every probability: never answers


class Threshold(NamedTuple):
    """A threshold and its counts on the calibration images.

    Attributes:
        abstain_below: answers with a smaller probability are withheld; ALWAYS if no threshold passed.
        n_images: number of calibration images.
        n_answered, n_wrong: numbers of answers and of wrong ones at this threshold, or at the first one if none passed.
    """

    abstain_below: float
    n_images: int
    n_answered: int
    n_wrong: int


def least_images(error_rate: float, confidence: float) -> int:
    """Return the number of answered images, all of them right, that proves an error rate.

    >>> least_images(0.01, 0.95)
    299
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-error_rate))


def find_threshold(
    probability: np.ndarray,
    correct: np.ndarray,
    *,
    guide: tuple[np.ndarray, np.ndarray],
    error_rate: float,
    confidence: float,
) -> Threshold:
    """Return the smallest threshold that is proven to keep the share of wrong answers at or below error_rate.

    Over draws of the calibration images, the error rate among answered images is above error_rate with a probability
    of at most 1 - confidence. A threshold passes if the upper Clopper-Pearson bound of its error rate is at most
    error_rate. The sequence begins at the threshold that is most likely to pass according to the guide
    (Laufer-Goldshtein et al. 2023); above it too few images are answered.

    Args:
        probability: (n,), of the most probable class, for calibration images that were used for nothing else.
        correct: (n,), bool, whether that class is the true one.
        guide: the same two for other images, at least one, which only order the thresholds.
        error_rate, confidence: in (0, 1).
    """
    others, right = guide
    levels = np.unique(np.quantile(others, np.linspace(0, 1, N_THRESHOLDS), method="lower"))
    levels[0] = 0.0
    first = int(np.argmin(_p_values(others, right, levels, error_rate=error_rate)))
    passed = _p_values(probability, correct, levels, error_rate=error_rate)[first::-1] <= 1 - confidence
    n_passed = len(passed) if passed.all() else int(passed.argmin())
    taken = levels[first - n_passed + 1] if n_passed else ALWAYS
    answered = probability >= (taken if n_passed else levels[first])
    return Threshold(float(taken), len(probability), int(answered.sum()), int((answered & ~correct).sum()))


def measure(
    probabilities: np.ndarray, labels: np.ndarray, abstained: np.ndarray, *, classes: Sequence[str]
) -> dict[str, Any]:
    """Return the share of images that are answered and the share of wrong answers, as values for JSON.

    Returns:
        share_answered and error_answered, each with its 95 % interval (Wilson) under NAME_ci95; error_answered is None
        without answers. answered_per_class: the same for the images of each class.

    Args:
        probabilities: (n, classes), n at least 1.
        labels: (n,), int, in [0, classes).
        abstained: (n,), bool: images without an answer.
        classes: the class names, in the order of the columns.
    """
    wrong = probabilities.argmax(axis=1) != labels
    members = {name: labels == number for number, name in enumerate(classes)}
    per_class = {name: _shares(wrong[own], abstained[own]) for name, own in members.items()}
    return {**_shares(wrong, abstained), "answered_per_class": per_class}


def _shares(wrong: np.ndarray, abstained: np.ndarray) -> dict[str, Any]:
    named = {"share_answered": ~abstained, "error_answered": wrong[~abstained]}
    found: dict[str, Any] = {}
    for name, members in named.items():
        found[name] = float(members.mean()) if len(members) else None
        found[f"{name}_ci95"] = list(accuracy_interval(members)) if len(members) else None
    return found


def _p_values(probability: np.ndarray, correct: np.ndarray, levels: np.ndarray, *, error_rate: float) -> Any:
    """Return the p-value of each level: the probability of at most its number of errors if the rate were too high."""
    from scipy.special import bdtr

    answered = probability >= levels[:, None]
    return np.where(
        answered.any(axis=1), bdtr((answered & ~correct).sum(axis=1), answered.sum(axis=1), error_rate), 1.0
    )
