"""The first phase of transfer learning with a linear head, which is solved and reported as one epoch."""

import time
from typing import TYPE_CHECKING

import numpy as np

from darkroom.training.answers import packed
from darkroom.training.calibration import HeldOut
from darkroom.training.checkpoints import Progress
from darkroom.training.class_weights import class_weights
from darkroom.training.data import Vectors
from darkroom.training.linear_head import FOLDED_IMAGES, log_softmax, solve
from darkroom.training.recipe import FEW_VALIDATION, Recipe, transfer_mode

if TYPE_CHECKING:
    import keras


def solve_head(
    head: "keras.Model", recipe: Recipe, data: Vectors, *, fit_val: bool = True
) -> tuple[Progress, HeldOut | None]:
    """Set the weights of an untrained head; return the progress of one epoch, and possibly held-out answers.

    With few validation images the head is fitted to them as well, and all images are answered out of fold, by heads
    that were not fitted to them. That is not done if the validation images must judge later steps: fine-tuning, or
    averaged views; or if they are the dataset's own validation set.

    Args:
        head: one layer with weights, features in, logits out.
        recipe: only label_smoothing, class_weights and seed are used.
        data: features.
        fit_val: whether the head may be fitted to validation images; not in a trial with a fraction of the training
            images, which is compared with trials of other heads.

    Returns:
        Progress, and the out-of-fold answers on validation and training images. Answers of heads that were fitted
        without any image of the true class are left out, unless all answers are of this kind. The answers are None if
        the validation images are enough, or the dataset's own, or if the deployed model averages views.
    """
    from darkroom.networks.build import root

    started = time.perf_counter()
    n_train, n_val = len(data.labels), len(data.val_labels)
    features = root(np.concatenate([data.images[np.arange(n_train)], data.val_images]))
    labels, groups = np.concatenate([data.labels, data.val_labels]), np.concatenate([data.groups, data.val_groups])
    is_few = n_val < FEW_VALIDATION and recipe["test_time_views"] == "one" and not data.official_val
    is_fitted_to_val = fit_val and is_few and transfer_mode(recipe) == "features" and len(labels) <= FOLDED_IMAGES
    fitted = slice(None if is_fitted_to_val else n_train)
    n_classes, smoothing = len(data.classes), recipe["label_smoothing"]
    by_class = class_weights(recipe["class_weights"], labels=data.labels, classes=data.classes)
    weights = np.ones(len(labels)) if by_class is None else by_class[labels].astype(np.float64)
    found = solve(
        features[fitted],
        (np.eye(n_classes)[labels] * (1 - smoothing) + smoothing / n_classes)[fitted],
        weights=weights[fitted],
        groups=groups[fitted],
        judged=np.concatenate([~data.is_copy, np.ones(n_val, bool)])[fitted],
        seed=recipe["seed"],
    )
    kernel, bias = found.kernel, found.bias
    if recipe["output"] == "sigmoid":  # one logit: the difference between those of the second and the first class
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    head.set_weights([kernel, bias])

    logits = features @ found.kernel + found.bias
    train_loss, train_accuracy = _scores(logits[:n_train], data.labels)
    logits[found.held_out] = found.held_out_logits
    val_loss, val_accuracy = _scores(logits[n_train:], data.val_labels)
    seconds = time.perf_counter() - started
    record = {
        "epoch": 1,
        "phase": "head",
        "train_loss": train_loss,
        "val_loss": val_loss,
        "train_accuracy": train_accuracy,
        "val_accuracy": val_accuracy,
        "learning_rate": 0.0,
        "images_per_second": n_train / seconds,
    }
    right = packed(logits[n_train:].argmax(axis=1) == data.val_labels)
    progress = Progress(1, "head", 1, val_accuracy, val_loss, right, train_seconds=seconds, history=[record])
    answered = np.union1d(found.held_out, np.arange(n_train, len(labels)))
    fair = np.setdiff1d(answered, found.held_out[~found.is_fair])
    answered = fair if len(fair) else answered
    answers = HeldOut(np.exp(log_softmax(logits[answered])), labels[answered], groups[answered])
    return progress, answers if is_few else None


def _scores(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy."""
    losses = -log_softmax(logits)[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(axis=1) == labels).mean())
