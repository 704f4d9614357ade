"""Familiarity, and the scores of prediction sets, from what the network returns. Travels beside package.py."""

import numpy as np


def familiarities(strangeness: np.ndarray, scale: dict[str, list[float]]) -> np.ndarray:
    """Return the share at the last mark of a scale that each image exceeds, 1 before the first: (n,).

    Args:
        strangeness: (n,).
        scale: strangeness, ascending, and share.
    """
    return np.array([1.0, *scale["share"]])[np.searchsorted(scale["strangeness"], strangeness, side="left")]


def set_scores(probabilities: np.ndarray, *, penalty: float, free: int) -> np.ndarray:
    """Return the lowest threshold at which each class enters the prediction set of an image: float64 (n, classes).

    Regularised adaptive prediction sets (RAPS; Angelopoulos et al. 2020, arXiv 2009.14193) without their random draw,
    u = 0: the probability of all classes that are more probable, and a penalty for each rank after the first `free`.
    The most probable class has 0, so that no set is empty. Of equally probable classes the first comes first.

    Args:
        probabilities: (n, classes), rows sum to 1.
        penalty: lambda of the paper.
        free: k_reg of the paper, at least 1.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=1).astype(float)
    ranks = np.arange(1, probabilities.shape[1] + 1)
    scores = np.empty(ordered.shape)
    before = np.cumsum(ordered, axis=1) - ordered
    np.put_along_axis(scores, order, before + penalty * np.maximum(ranks - free, 0), axis=1)
    return scores
