"""Compute metrics, intervals, calibration and the worst errors from probabilities and true labels."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from darkroom.errors import DataError

SUM_TOLERANCE = 1e-3
SMALLEST_PROBABILITY = 1e-7  # of float32 softmax outputs; bounds the loss of one image at 16.1


class ClassMetrics(TypedDict):
    """Metrics of one class; None if undefined: precision if never predicted, recall if absent."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def evaluate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    calibration_bins: int,
) -> dict[str, Any]:
    """Return test_accuracy, test_accuracy_ci95, test_loss, macro_f1, ece and per_class, as values for JSON.

    macro_f1 is the unweighted mean of f1 over the classes that occur in labels or predictions.

    Args:
        probabilities: (n, classes), float, rows sum to 1.
        labels: (n,), int, in [0, classes).
        classes: the class names, in the order of the columns.
        calibration_bins: confidence bins of the calibration error, at least 1.

    Raises:
        DataError: no images, shapes disagree, a row does not sum to 1 within 1e-3, or a label is out of range.
    """
    check(probabilities, labels)
    if len(classes) != probabilities.shape[1]:
        raise DataError(f"got {len(classes)} class names for probabilities of {probabilities.shape[1]} classes")
    correct = probabilities.argmax(axis=1) == labels
    per_class = class_metrics(confusion_matrix(probabilities.argmax(axis=1), labels, n_classes=len(classes)))
    f1 = [metrics["f1"] for metrics in per_class if metrics["f1"] is not None]
    return {
        "test_accuracy": float(correct.mean()),
        "test_accuracy_ci95": list(accuracy_interval(correct)),
        "test_loss": float(losses(probabilities, labels).mean()),
        "macro_f1": float(np.mean(f1)),
        "ece": expected_calibration_error(probabilities, labels, n_bins=calibration_bins),
        "per_class": dict(zip(classes, per_class, strict=True)),
    }


def check(probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Check that probabilities and labels are valid and belong together.

    Raises:
        DataError: see `evaluate`.
    """
    if probabilities.ndim != 2 or labels.ndim != 1 or len(probabilities) != len(labels) or len(labels) == 0:
        raise DataError(
            f"probabilities have shape {probabilities.shape} and labels {labels.shape}; expected (n, classes) and "
            "(n,) with n at least 1"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels have dtype {labels.dtype}, expected class indices (int)")
    n_classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= n_classes:
        wrong = labels[(labels < 0) | (labels >= n_classes)][0]
        raise DataError(f"found label {wrong}, expected a class index from 0 to {n_classes - 1}")
    deviations = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1)
    bad = np.flatnonzero(~(deviations <= SUM_TOLERANCE) | (probabilities < 0).any(axis=1))
    if len(bad):
        total = probabilities[bad[0]].sum(dtype=np.float64)
        raise DataError(
            f"row {bad[0]} of the probabilities sums to {total:.6g} (smallest {probabilities[bad[0]].min():.3g}); "
            f"expected no negative value and a sum of 1 within {SUM_TOLERANCE:g}"
        )


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of every image in nats: float64 (n,), at most 16.1 (see SMALLEST_PROBABILITY)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    loss: np.ndarray = -np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0))
    return loss


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """Return the 95 % score interval of an accuracy (Wilson 1927), inside [0, 1].

    Args:
        correct: (n,), bool, at least one.

    >>> low, high = accuracy_interval(np.arange(1000) < 960)  # 960 of 1,000 images are correct
    >>> f"{low:.3f} to {high:.3f}"
    '0.946 to 0.970'
    """
    from scipy.stats import binomtest  # 1 s

    interval = binomtest(int(np.count_nonzero(correct)), len(correct)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, *, n_classes: int) -> np.ndarray:
    """Return int64 (n_classes, n_classes): images of the class of the row, predicted as the class of the column."""
    counts = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def class_metrics(confusion: np.ndarray) -> list[ClassMetrics]:
    """Return precision, recall, f1 and support per class of a confusion matrix (rows are the truth).

    f1 is 2 TP / (2 TP + FP + FN): 0 for a class that has test images but was never found, None for one that neither
    has images nor was predicted.
    """
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        ClassMetrics(
            precision=float(hit / found) if found else None,
            recall=float(hit / there) if there else None,
            f1=float(2 * hit / (there + found)) if there + found else None,
            support=int(there),
        )
        for hit, there, found in zip(hits, support, predicted, strict=True)
    ]


def reliability_curve(probabilities: np.ndarray, labels: np.ndarray, *, n_bins: int) -> dict[str, np.ndarray]:
    """Return confidence against accuracy in equal-width bins (a, b] of the confidence, the first [0, b].

    Returns:
        lower, upper: (bins,), the edges. count: (bins,), int. confidence, accuracy: (bins,), means in the bin, NaN
        where it is empty.
    """
    if n_bins < 1:
        raise DataError(f"the number of calibration bins is {n_bins}, expected at least 1")
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return {
            "lower": edges[:-1],
            "upper": edges[1:],
            "count": count,
            "confidence": np.bincount(bins, weights=confidence, minlength=n_bins) / count,
            "accuracy": np.bincount(bins, weights=correct, minlength=n_bins) / count,
        }


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, n_bins: int = 15) -> float:
    """Return the expected calibration error in [0, 1] (Naeini et al. 2015, equal-width bins).

    Args:
        probabilities: (n, classes), float, rows sum to 1.
        labels: (n,), int, in [0, classes).
        n_bins: number of confidence bins, at least 1.

    Raises:
        DataError: shapes disagree, or a row does not sum to 1 within 1e-3.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    >>> f"{expected_calibration_error(probabilities, np.array([0, 0, 1, 0]), n_bins=10):.2f}"
    '0.30'
    """
    check(probabilities, labels)
    curve = reliability_curve(probabilities, labels, n_bins=n_bins)
    gaps = np.abs(np.nan_to_num(curve["accuracy"] - curve["confidence"]))
    return float((gaps * curve["count"]).sum() / len(labels))


def worst_errors(probabilities: np.ndarray, labels: np.ndarray, *, n_errors: int) -> np.ndarray:
    """Return the positions of the wrong answers with the highest loss, worst first; at most n_errors, int64.

    Ties go to the more confident wrong answer, then to the lower position.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    loss, confidence = losses(probabilities, labels)[wrong], probabilities.max(axis=1)[wrong]
    return wrong[np.lexsort((wrong, -confidence, -loss))][:n_errors]
