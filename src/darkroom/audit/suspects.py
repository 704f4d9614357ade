"""Find labels that are probably wrong, by confident learning on out-of-fold answers and on neighbours. Pure."""

from typing import NamedTuple

import numpy as np

N_NEIGHBOURS = 10
DIRECTIONS = 128  # principal components in which neighbours are searched: ten times as fast as 1,280
POOL_STEPS = 40
SMOOTHING = 1.0  # votes added to those of the neighbours, spread over all classes


class Neighbours(NamedTuple):
    """The nearest images of each image, without itself and its group.

    Attributes:
        positions: int64 (n, k), ascending by distance; -1 where there are fewer.
        distances: float32 (n, k), between centred features of length 1, 0 to 2.
    """

    positions: np.ndarray
    distances: np.ndarray


class Verdicts(NamedTuple):
    """The verdicts on labels, (n,) each.

    Attributes:
        quality: float, 0 to 1: the probability of the label.
        suggested: int, the class that fits best beside the label.
        is_suspect: bool, whether the label is probably wrong.
    """

    quality: np.ndarray
    suggested: np.ndarray
    is_suspect: np.ndarray


def nearest(features: np.ndarray, groups: np.ndarray, *, k: int = N_NEIGHBOURS) -> Neighbours:
    """Return the nearest images by the angle between centred features.

    Args:
        features: float32 (n, D).
        groups: int (n,): images of one group, such as near-duplicates, are not neighbours of each other, because they
            repeat the label with the image.
        k: number of neighbours.
    """
    from sklearn.neighbors import NearestNeighbors

    points = main_directions(features)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    largest_group = int(np.unique(groups, return_counts=True)[1].max())
    n_asked = min(len(points), k + min(largest_group, k))
    distances, found = NearestNeighbors(n_neighbors=n_asked, algorithm="brute").fit(points).kneighbors(points)
    own = groups[found] == groups[:, None]
    order = np.argsort(own, axis=1, kind="stable")[:, :k]  # others first, still by distance
    positions = np.where(np.take_along_axis(own, order, axis=1), -1, np.take_along_axis(found, order, axis=1))
    return Neighbours(positions, np.take_along_axis(distances, order, axis=1))


def main_directions(features: np.ndarray, *, n: int = DIRECTIONS) -> np.ndarray:
    """Return the first n principal components of the features: float32 (n_images, at most n)."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    if features.shape[1] <= n:
        return np.asarray(features - mean, np.float32)
    from threadpoolctl import threadpool_limits

    centred = features - mean
    with threadpool_limits(1, user_api="blas"):  # see linear_head.out_of_fold
        _, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        return np.asarray(centred @ directions[:, -n:].astype(np.float32))


def votes(neighbours: Neighbours, labels: np.ndarray, *, n_classes: int) -> np.ndarray:
    """Return each class's share of the votes of an image's neighbours: float64 (n, classes), rows sum to 1."""
    there = neighbours.positions >= 0
    counts = np.full((len(labels), n_classes), SMOOTHING / n_classes)
    rows = np.broadcast_to(np.arange(len(labels))[:, None], there.shape)[there]
    np.add.at(counts, (rows, labels[neighbours.positions[there]]), 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def together(log_probabilities: np.ndarray, shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the logarithmic pool of heads' and neighbours' answers that fits the labels best: float64 (n, classes).

    The two weights minimise the cross-entropy; wrong labels hardly affect two numbers.

    Args:
        log_probabilities: (n, classes), of the heads.
        shares: (n, classes), above 0, of the neighbours.
        labels: (n,) int.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    rows, logarithms = np.arange(len(labels)), np.log(shares)

    def pooled(weights: np.ndarray) -> np.ndarray:
        return np.asarray(log_softmax(weights[0] * log_probabilities + weights[1] * logarithms, axis=1))

    def loss(weights: np.ndarray) -> float:
        return -float(pooled(weights)[rows, labels].mean())

    found = minimize(loss, [0.5, 0.5], method="Nelder-Mead", bounds=[(0, 4), (0, 4)], options={"maxiter": POOL_STEPS})
    return np.asarray(np.exp(pooled(found.x)))


def verdicts(probabilities: np.ndarray, labels: np.ndarray) -> Verdicts:
    """Judge labels by confident learning (Northcutt et al. 2021).

    The threshold of a class is its mean probability among the images with its label. An image belongs to the most
    probable of the classes whose threshold it reaches. The number of images that belong to another class than their
    label (off the diagonal of the confident joint) estimates the number n of wrong labels. The suspects are, of the n
    images with the lowest probability of their label, those with a more probable class; the joint ranks them worse
    (benchmarks/audit.py).

    Args:
        probabilities: (n, classes), of models that were not trained on the label; rows sum to 1.
        labels: (n,) int, in [0, classes).
    """
    rows, n_classes = np.arange(len(labels)), probabilities.shape[1]
    of_label = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=n_classes)
    thresholds = np.bincount(labels, of_label, minlength=n_classes) / np.maximum(counts, 1)
    thresholds[counts == 0] = np.inf
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    best = confident.argmax(axis=1)
    n_wrong = int(((best != labels) & (confident[rows, best] >= 0)).sum())
    others = probabilities.copy()
    others[rows, labels] = -1.0
    suggested = others.argmax(axis=1)
    is_suspect = np.zeros(len(labels), bool)
    is_suspect[np.argsort(of_label, kind="stable")[:n_wrong]] = True
    return Verdicts(of_label, suggested, is_suspect & (others[rows, suggested] > of_label))
