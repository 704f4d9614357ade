"""A model's answers on held-out images, and the temperature that calibrates them."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from darkroom.evaluation.metrics.classification import expected_calibration_error
from darkroom.evaluation.metrics.temperature import fit_temperature, scaled
from darkroom.training.data import Data

if TYPE_CHECKING:
    import keras


class HeldOut(NamedTuple):
    """Answers on images that the answering model was not fitted to.

    Attributes:
        probabilities: (n, classes).
        labels: (n,), int.
        groups: (n,), int: near-duplicates share a number; None: there are none.
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

    @property
    def none(self) -> "HeldOut":
        """None of the answers; what is calibrated on them promises nothing."""
        return HeldOut(self.probabilities[:0], self.labels[:0])

    def at_temperature(self, temperature: float) -> "HeldOut":
        """Return the answers at a temperature."""
        return self._replace(probabilities=scaled(self.probabilities, temperature))

    def halves(self, *, seed: int) -> "tuple[HeldOut, HeldOut]":
        """Return two random halves that share no group; of the second only one image of each group.

        A guarantee that is calibrated on the second half needs independent images.
        """
        groups = np.arange(len(self.labels)) if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        rng = np.random.default_rng(seed)
        first = rng.permutation(groups.max() + 1)[groups] % 2 == 0
        order = rng.permutation(len(groups))
        alone = np.isin(np.arange(len(groups)), order[np.unique(groups[order], return_index=True)[1]])
        one, other = (HeldOut(self.probabilities[part], self.labels[part]) for part in (first, ~first & alone))
        return one, other


def validated(model: "keras.Model", data: Data, *, views: str, batch_size: int) -> HeldOut:
    """Return a model's answers on the validation images.

    Args:
        model: returned by inference.deployable.
        data: the data of its training.
        views: the views that the model averages.
        batch_size: images at a time, counting each view.
    """
    from darkroom.networks import inference

    size = max(1, batch_size // inference.VIEWS[views])
    return HeldOut(inference.answers(model, data.val_images, batch_size=size), data.val_labels)


def calibrated(model: "keras.Model", answers: HeldOut) -> "tuple[keras.Model, dict[str, float]]":
    """Return the model at the temperature that fits these answers best, and its effect on them.

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
