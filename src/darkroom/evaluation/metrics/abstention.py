"""The probability below which a model had better not answer, so that its answers are wrong at most at a stated rate.

Learn then test (Angelopoulos et al. 2021) by fixed-sequence testing: thresholds are tried in an order that the
calibration images did not choose, from one that should pass down to the smallest, and the last before the first that
does not pass is taken. As no threshold is tried after a failure, all tests together err with the probability of one.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from darkroom.evaluation.metrics.classification import accuracy_interval

N_THRESHOLDS = 100
ALWAYS = 2.0  # above every probability: never answers


class Threshold(NamedTuple):
    """A threshold, and what was seen at it.

    Attributes:
        abstain_below: answers with a smaller probability do not count; ALWAYS where no threshold passed.
        n_images: calibration images.
        n_answered, n_wrong: of them, at this threshold; where none passed, at the one that was tried first.
    """

    abstain_below: float
    n_images: int
    n_answered: int
    n_wrong: int


def least_images(error_rate: float, confidence: float) -> int:
    """Return how many answered images, all of them right, show that an error rate is met.

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
    """Return the smallest threshold at which the answers are shown to be wrong at most at error_rate.

    Over draws of the calibration images, the error rate among answered images is above error_rate with a probability
    of at most 1 - confidence. A threshold passes where the upper Clopper-Pearson bound of its error rate is at most
    error_rate; the guide says at which one that is most likely, and the sequence begins there (Laufer-Goldshtein et
    al. 2023): above it fewer images are answered, too few to show anything.

    Args:
        probability: (n,), of the most probable class, for calibration images: not used for training or any choice.
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
    """Return how many images are answered, and how many of these answers are wrong, as shares that fit JSON.

    Returns:
        share_answered and error_answered, each with its 95 % interval (Wilson) under NAME_ci95; an error without
        answers is None. answered_per_class: the same for the images of each class.

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
    """Return for each level the probability of so few errors among the answers, or fewer, at an error rate too high."""
    from scipy.special import bdtr

    answered = probability >= levels[:, None]
    return np.where(
        answered.any(axis=1), bdtr((answered & ~correct).sum(axis=1), answered.sum(axis=1), error_rate), 1.0
    )
