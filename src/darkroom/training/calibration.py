"""What a model says of images that it was not fitted to, and the temperature that its confidence needs for them."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from darkroom.evaluation.metrics.classification import expected_calibration_error
from darkroom.evaluation.metrics.temperature import fit_temperature, scaled
from darkroom.training.recipe import Data

if TYPE_CHECKING:
    import keras

FEW_VALIDATION = 500  # images: a temperature or an accuracy from fewer is mostly chance


class HeldOut(NamedTuple):
    """Answers about images that what gave them was not fitted to: probabilities (n, classes), and labels (n,) int."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of images whose most probable class is their label."""
        return float((self.probabilities.argmax(axis=1) == self.labels).mean())


def validated(model: "keras.Model", data: Data, *, views: str, batch_size: int) -> HeldOut:
    """Return what a model says of the validation images.

    Args:
        model: as inference.deployable returned it.
        data: as it was trained on.
        views: that the model averages: each image is as many.
        batch_size: images at a time, views included.
    """
    from darkroom.networks import inference

    size = max(1, batch_size // inference.VIEWS[views])
    return HeldOut(inference.answers(model, data.val_images, batch_size=size), data.val_labels)


def calibrated(model: "keras.Model", answers: HeldOut) -> "tuple[keras.Model, dict[str, float]]":
    """Return the model at the temperature that suits these answers best, and what that changes for them.

    Returns:
        The model to deploy; temperature, val_ece and val_ece_uncalibrated, the expected calibration errors.
    """
    from darkroom.networks import inference

    probabilities, labels = answers
    temperature = fit_temperature(probabilities, labels)
    changes = {
        "temperature": temperature,
        "val_ece": expected_calibration_error(scaled(probabilities, temperature), labels),
        "val_ece_uncalibrated": expected_calibration_error(probabilities, labels),
    }
    return inference.at_temperature(model, temperature), changes
