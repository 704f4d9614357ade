"""Temperature scaling, so that the confidence of a trained network matches its accuracy."""

import math

import numpy as np

from darkroom.errors import DataError
from darkroom.evaluation.metrics.classification import check

GREATEST = 20.0  # the temperature is limited to [1 / GREATEST, GREATEST]
PRIOR = math.log(2)  # standard deviation of log T before any image is seen


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T > 0 at which softmax(logits / T) has the smallest cross-entropy (Guo et al. 2017).

    log T has a normal prior with mean 0, because few images say little: in simulations it halves the loss that a
    temperature fitted to 18 images adds, and changes nothing with 500.

    Probabilities determine logits up to a constant per image, which softmax ignores. T > 1 softens the answers of an
    overconfident network, T < 1 sharpens an underconfident one, for example after label smoothing; no answer changes
    its class. T is 1 if no T is better.

    Args:
        probabilities: (n, classes), float, rows sum to 1; of images that were not used for training.
        labels: (n,), int, in [0, classes).

    Raises:
        DataError: shapes disagree, or a row does not sum to 1 within 1e-3.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    check(probabilities, labels)
    logits, rows = _logits(probabilities), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        mean = -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())
        return mean + (log_temperature / PRIOR) ** 2 / 2 / len(labels)

    found = minimize_scalar(loss, bounds=(-np.log(GREATEST), np.log(GREATEST)), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities at a temperature: float64 (n, classes).

    Raises:
        DataError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise DataError(f"the temperature is {temperature}, expected a number above 0")
    from scipy.special import softmax

    return np.asarray(softmax(_logits(probabilities) / temperature, axis=1))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.clip(probabilities.astype(np.float64), np.finfo(np.float32).tiny, None)))
