"""Out-of-fold answers of a network that is trained once per fold, without the images of the fold."""

from collections.abc import Callable
from typing import Any

import numpy as np

from darkroom.data.arrays.selection import Selection
from darkroom.errors import ParamsError
from darkroom.project.console import loading_keras
from darkroom.training.candidate import train_candidate
from darkroom.training.data import Data
from darkroom.training.linear_head import assign_folds
from darkroom.training.recipe import Recipe, check, transfer_mode


def out_of_fold(
    recipe: Recipe,
    images: Any,
    labels: np.ndarray,
    *,
    groups: np.ndarray,
    classes: list[str],
    n_folds: int,
    device: str,
    say: Callable[[str], None],
) -> np.ndarray:
    """Return for every image the probabilities of a network that was not trained on its group: float32 (n, classes).

    Whatever the recipe says, the last epoch is used, and a schedule that depends on validation depends on training
    instead, so that the labels of a fold do not influence its answers.

    Args:
        recipe: of a network without a backbone.
        images: uint8 (n, H, W, C), indexable by an int array.
        labels: (n,) int, positions in classes.
        groups: (n,) int: images of one group, such as near-duplicates, are in the same fold.
        n_folds: number of trainings, at least 2.
        device: compute.device.
        say: called with a line after each training.

    Raises:
        ParamsError: the recipe is for transfer, or does not fit the images.
        TrainingError: the device is missing, the loss is not finite, or the memory is exhausted.
    """
    if transfer_mode(recipe) is not None:
        raise ParamsError("a candidate for transfer is not trained in folds; its features judge labels")
    recipe = {**recipe, "checkpoint": "last", "early_stopping": None}
    if (schedule := recipe["schedule"])["name"] == "plateau":
        recipe["schedule"] = {**schedule, "metric": schedule["metric"].replace("val_", "train_")}
    folds = assign_folds(labels, groups, n_folds=n_folds, seed=recipe["seed"])
    parts = []
    for fold in range(n_folds):
        rest, inside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        chosen = Selection([(images, rest)]), labels[rest], Selection([(images, inside)]), labels[inside]
        parts.append(Data(*chosen, classes))
    for part in parts:
        check(recipe, part, image_shape=images.shape[1:], features=None)
    with loading_keras():
        from darkroom.networks.inference import answers
        from darkroom.networks.runtime.device import policy, prepare

        prepare(device)
    found = np.empty((len(labels), len(classes)), np.float32)
    for fold, part in enumerate(parts):
        trained = train_candidate(recipe, data=part, image_shape=images.shape[1:], policy=policy(recipe["precision"]))
        found[folds == fold] = answers(trained.model, part.val_images, batch_size=2 * trained.batch_size)
        say(f"fold {fold + 1} of {n_folds}: the answers agree with {trained.val_accuracy:.1%} of the labels")
    return found
