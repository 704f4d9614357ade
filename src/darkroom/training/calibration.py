"""What a model says of images that it was not fitted to, and the temperature that its confidence needs for them."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from darkroom.evaluation.metrics.classification import expected_calibration_error
from darkroom.evaluation.metrics.temperature import fit_temperature, scaled
from darkroom.training.recipe import Data

if TYPE_CHECKING:
    import keras


class HeldOut(NamedTuple):
    """Answers about images that what gave them was not fitted to.

    Attributes:
        probabilities: (n, classes).
        labels: (n,), int.
        groups: (n,), int: near-duplicates have the same; None: there are none.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """The share of images whose most probable class is their label."""
        return float(self.correct.mean())

    @property
    def correct(self) -> np.ndarray:
        """Whether the most probable class is the label: (n,), bool."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.labels)

    def at_temperature(self, temperature: float) -> "HeldOut":
        """Return what the model says at a temperature."""
        return self._replace(probabilities=scaled(self.probabilities, temperature))

    def halves(self, *, seed: int) -> "tuple[HeldOut, HeldOut]":
        """Return two random halves; no group is in both."""
        groups = np.arange(len(self.labels)) if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        first = np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % 2 == 0
        one, other = (HeldOut(self.probabilities[part], self.labels[part]) for part in (first, ~first))
        return one, other


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

    probabilities, labels = answers.probabilities, answers.labels
    temperature = fit_temperature(probabilities, labels)
    changes = {
        "temperature": temperature,
        "val_ece": expected_calibration_error(scaled(probabilities, temperature), labels),
        "val_ece_uncalibrated": expected_calibration_error(probabilities, labels),
    }
    return inference.at_temperature(model, temperature), changes
