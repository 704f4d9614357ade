"""The linear head on the features of a frozen backbone: multinomial logistic regression, solved by L-BFGS.

The penalty on its weights is chosen by cross-validation. The out-of-fold answers are kept, because few validation
images say little. Numpy and SciPy only, so the Keras backend makes no difference.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

# Factors of 1/2 |weights|^2, added to the mean loss of an image, for features of mean square length 1. From strong to
# weak: each solution starts the next, and the last ones, which take most steps, are tried only while answers improve.
PENALTIES = tuple(10.0 ** (-exponent / 2) for exponent in range(2, 13))
PATIENCE = 2  # consecutive penalties without improvement
N_FOLDS = 5
FOLDED_IMAGES = 10_000  # held-out images of all folds; with more images fewer folds are tried, two with 20,000
PENALTY_IMAGES = 4_000  # on which out_of_fold compares penalties
SHARPEST, SOFTEST = 1 / 4, 4.0  # temperatures
# A prior for few images: the penalty per image that was best over many small datasets. A penalty that differs by a
# factor of ten is worse by LOSS_OF_TEN in the sum of losses.
USUAL_PENALTY, LOSS_OF_TEN = 0.6, 8.0
LEAST_VARIANCE = 1e-7  # relative to the largest; less is rounding
BIAS_PENALTY = 1e-4  # otherwise the bias of a class without images in a fold would be unbounded
# Options of SciPy's L-BFGS. Folds stop earlier, because they are only compared.
FOLD_OPTIONS: Any = {"maxiter": 300, "gtol": 1e-4, "ftol": 1e-5}
OPTIONS: Any = {"maxiter": 300, "gtol": 1e-5, "ftol": 1e-8}

Each = Callable[..., Iterable[np.ndarray]]  # map, or one like it


@dataclass(frozen=True)
class LinearHead:
    """A solved head.

    Attributes:
        kernel, bias: float32 (features, classes) and (classes,): logits are features @ kernel + bias.
        penalty: the chosen one of PENALTIES.
        held_out: (m,) int, the rows with out-of-fold answers.
        held_out_logits: float32 (m, classes), of heads that were not fitted to their groups.
        is_fair: (m,) bool, whether that head was fitted to other images of the class. Without any its answer says
            nothing about a head that was fitted to all images.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    held_out: np.ndarray
    held_out_logits: np.ndarray
    is_fair: np.ndarray


def solve(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    weights: np.ndarray,
    groups: np.ndarray,
    judged: np.ndarray,
    seed: int,
) -> LinearHead:
    """Return the head with the penalty of the best out-of-fold answers, fitted to all images.

    The best answers have the smallest cross-entropy at their best temperature, because confidence is calibrated after
    training anyway, and the penalty that is best without a temperature makes more errors.

    Args:
        features: float32 (n, D).
        targets: (n, classes), rows sum to 1.
        weights: (n,), at least 0, of the images in the loss.
        groups: (n,) int: images of one group, such as near-duplicates and augmented copies, are in the same fold.
        judged: (n,) bool, the images on which penalties are compared.
        seed: of the folds.
    """
    labels = targets.argmax(axis=1)
    folds = assign_folds(labels, groups, n_folds=N_FOLDS, seed=seed)
    n_tried = max(1, min(N_FOLDS, FOLDED_IMAGES * N_FOLDS // max(1, len(labels))))
    held_out = np.flatnonzero(judged & (folds < n_tried))
    with _single_threaded_products() as each:
        problem = _Problem(features, targets)
        best, kept, starts = _best_penalty(
            problem, labels, weights, folds=folds, n_tried=n_tried, held_out=held_out, each=each
        )
        kernel, bias = problem.coefficients(problem.minimize(weights, best, start=starts[0], options=OPTIONS))
    return LinearHead(kernel, bias, best, held_out, kept[held_out], _is_fair(labels, weights, folds)[held_out])


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, *, n_classes: int, groups: np.ndarray, seed: int
) -> np.ndarray:
    """Return for every image the logits of a head that was not fitted to its group: float32 (n, classes).

    The penalty is chosen as in `solve`, on at most PENALTY_IMAGES; for n times as many images it is divided by n.

    Args:
        features: float32 (n, D).
        labels: (n,) int, below n_classes.
        groups: (n,) int, see solve.
        seed: of the folds.
    """
    targets = np.eye(n_classes, dtype=np.float32)[labels]
    n_parts = -(-len(labels) // PENALTY_IMAGES)
    sample = np.flatnonzero(assign_folds(labels, groups, n_folds=n_parts, seed=seed + 1) == 0)
    with _single_threaded_products() as each:

        def compared(problem: "_Problem", rows: np.ndarray, penalties: Sequence[float]) -> tuple[float, np.ndarray]:
            folds = assign_folds(labels[rows], groups[rows], n_folds=N_FOLDS, seed=seed)
            return _best_penalty(
                problem,
                labels[rows],
                np.ones(len(rows)),
                folds=folds,
                n_tried=N_FOLDS,
                held_out=np.arange(len(rows)),
                penalties=penalties,
                each=each,
            )[:2]

        best, logits = compared(_Problem(features[sample], targets[sample]), sample, PENALTIES)
        if n_parts == 1:
            return logits
        everything = np.arange(len(labels))
        return compared(_Problem(features, targets), everything, [best * len(sample) / len(labels)])[1]


@contextmanager
def _single_threaded_products() -> Iterator[Each]:
    """Yield a map whose calls run in parallel; each product of matrices uses one thread.

    If other programs use the cores too, a product that waits for all of its threads takes many times as long. Without
    threadpoolctl the library chooses the number of threads.
    """
    with ExitStack() as stack:
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:  # on a machine with little more than Keras
            pass
        else:
            stack.enter_context(threadpool_limits(1, user_api="blas"))
        yield stack.enter_context(ThreadPoolExecutor(N_FOLDS)).map


def _best_penalty(
    problem: "_Problem",
    labels: np.ndarray,
    weights: np.ndarray,
    *,
    folds: np.ndarray,
    n_tried: int,
    held_out: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    each: Each,
) -> tuple[float, np.ndarray, list[np.ndarray]]:
    """Return the best penalty, its logits for images of the tried folds (others: 0), and solutions to start from."""

    def solved(fold: int) -> np.ndarray:
        return problem.minimize(
            np.where(folds == fold, 0.0, weights), penalty, start=starts[fold], options=FOLD_OPTIONS
        )

    starts = [problem.zero()] * n_tried
    judged = held_out[(_is_fair(labels, weights, folds) & (weights > 0))[held_out]]
    best, best_loss, since = penalties[0], math.inf, 0
    logits = kept = np.zeros((len(labels), problem.zero().shape[1]), np.float32)
    for penalty in penalties:
        logits = np.zeros_like(logits)
        starts = list(each(solved, range(n_tried)))
        for fold in range(n_tried):
            inside = folds == fold
            logits[inside] = problem.logits(starts[fold], np.flatnonzero(inside))
        unusual = math.log10(penalty * len(held_out) / USUAL_PENALTY) ** 2
        loss = _tempered_loss(logits[judged], labels[judged], weights[judged]) if len(judged) else 0.0
        loss += LOSS_OF_TEN * unusual / max(1, len(judged))
        since = 0 if loss < best_loss else since + 1
        if since == 0:
            best, best_loss, kept = penalty, loss, logits
        if since == PATIENCE:
            break
    return best, kept, starts


def _is_fair(labels: np.ndarray, weights: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return for every image whether other folds have images of its class, or nobody has: (n,) bool.

    Images without weight do not count.
    """
    counts = np.zeros((folds.max() + 1, labels.max() + 1))
    np.add.at(counts, (folds, labels), weights > 0)
    others, everywhere = counts.sum(axis=0)[labels] - counts[folds, labels], counts.sum(axis=0)[labels]
    return np.asarray((others > 0) | (everywhere == 0))


def assign_folds(labels: np.ndarray, groups: np.ndarray, *, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold of every image, (n,) int below n_folds: groups are not divided, classes are spread evenly."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    of_group = np.empty(len(first), np.int64)
    of_group[by_class] = np.arange(len(first)) % n_folds
    return np.asarray(of_group[group])


class _Problem:
    """The loss of a head for some images, in the directions in which their features vary.

    Features are centred and scaled by one factor; scaling each separately was worse (few_photographs.py). A solution is
    float64 (directions + 1, classes), the bias last.
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        self._targets = targets.astype(np.float32)
        self._mean = features.mean(axis=0, dtype=np.float64)
        centred = features - self._mean.astype(np.float32)
        self._scale = math.sqrt(max(float(np.vdot(centred, centred)) / len(centred), 1e-12))
        centred /= np.float32(self._scale)
        # With fewer images than features, the directions are computed from the smaller matrix of images.
        few = len(features) < features.shape[1]
        wide = centred.astype(np.float64) if few else centred
        products = (wide @ wide.T if few else wide.T @ wide).astype(np.float64) / len(features)
        variance, directions = np.linalg.eigh(products)
        kept = variance > LEAST_VARIANCE * variance[-1]
        self._variance, directions = variance[kept], directions[:, kept]
        if few:
            directions = wide.T @ (directions / np.sqrt(self._variance * len(features)))
        self._directions = directions
        self._inputs = centred @ directions.astype(np.float32)

    def zero(self) -> np.ndarray:
        return np.zeros((len(self._variance) + 1, self._targets.shape[1]))

    def logits(self, solution: np.ndarray, rows: np.ndarray) -> np.ndarray:
        found = solution.astype(np.float32)
        return np.asarray(self._inputs[rows] @ found[:-1] + found[-1])

    def coefficients(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel and bias for the original features, float32."""
        kernel = self._directions @ solution[:-1] / self._scale
        return kernel.astype(np.float32), (solution[-1] - self._mean @ kernel).astype(np.float32)

    def minimize(self, weights: np.ndarray, penalty: float, *, start: np.ndarray, options: Any) -> np.ndarray:
        """Return the solution for images with these weights."""
        from scipy.optimize import minimize

        rows = np.flatnonzero(weights)
        inputs, targets = self._inputs[rows], self._targets[rows]
        shares = (weights[rows] / weights.sum()).astype(np.float32)[:, None]
        n_classes = targets.shape[1]
        # Scaled so that the curvature is similar in all directions: L-BFGS then takes a tenth of the steps.
        curvature = (1 - 1 / n_classes) / n_classes
        step = np.append(1 / np.sqrt(curvature * self._variance + penalty), 1.0)[:, None]
        penalties = np.append(np.full(len(self._variance), penalty), BIAS_PENALTY)[:, None]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            solution = flat.reshape(start.shape) * step
            found = solution.astype(np.float32)
            logits = inputs @ found[:-1] + found[-1]
            log_probabilities = log_softmax(logits)
            value = -float((shares * targets * log_probabilities).sum(dtype=np.float64))
            slope = shares * (np.exp(log_probabilities) - targets)
            gradient = np.vstack([inputs.T @ slope, slope.sum(axis=0)]) + penalties * solution
            return value + float((penalties * solution**2).sum()) / 2, (gradient * step).ravel()

        found = minimize(loss, (start / step).ravel(), jac=True, method="L-BFGS-B", options=options)
        return np.asarray(found.x.reshape(start.shape) * step)


def _tempered_loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the smallest mean cross-entropy over temperatures between SHARPEST and SOFTEST."""
    temperatures = np.geomspace(SHARPEST, SOFTEST, 9)
    rows, total = np.arange(len(labels)), weights.sum()
    losses = [-log_softmax(logits / temperature)[rows, labels] @ weights / total for temperature in temperatures]
    return float(min(losses))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of logits (n, classes)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
