"""Familiarity: the share of known images that look at least as strange as an image, for a trained network."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from darkroom.data.arrays.selection import Selection
from darkroom.deployable.scores import familiarities
from darkroom.training.candidate import Trained
from darkroom.training.opened import Opened
from darkroom.training.recipe import Recipe, transfer_mode

if TYPE_CHECKING:
    import keras

TRAINING_IMAGES = 5000  # maximum number of images whose features are used
SCALE_MARKS = 300


class Familiarity(NamedTuple):
    """The strangeness of images, and its scale.

    Attributes:
        model: images to strangeness.
        scale: {strangeness: ascending, share: of held-out images that are at least as strange}; see `scale_of`.
        n_images: number of held-out images.
        batch_size: images at a time, so that all their views fit into memory.
    """

    model: "keras.Model"
    scale: dict[str, list[float]]
    n_images: int
    batch_size: int

    def of(self, images: Any) -> np.ndarray:
        """Return the familiarity of images, (n,), in (0, 1]."""
        from darkroom.networks import inference

        return familiarities(inference.answers(self.model, images, batch_size=self.batch_size), self.scale)


def learn(recipe: Recipe, trained: Trained, opened: Opened) -> Familiarity:
    """Fit the strangeness of a trained network to training images, and its scale to validation images.

    With few images a head is also fitted to the validation images (see head_phase.solve_head). It is more confident on
    them than on new ones, so slightly more known images than stated are unknown.
    """
    from darkroom.networks import inference, strangeness

    data, described = opened.data, trained.described
    batch_size = max(1, trained.batch_size // inference.VIEWS[recipe["test_time_views"]])
    if opened.features is not None and transfer_mode(recipe) == "features":  # computed by the same backbone
        values, labels = opened.features.arrays("train")
        rows = _spread(len(labels))
        known = strangeness.known(values[rows], labels[rows])
    else:
        rows = _spread(len(data.labels))
        _, values = inference.outputs(described, Selection([(data.images, rows)]), batch_size=batch_size)
        known = strangeness.known(values, data.labels[rows])
    logits, values = inference.outputs(described, data.val_images, batch_size=batch_size)
    known = known.spread_over(logits, values)
    held_out = np.asarray(strangeness.summed(logits, values, known))
    return Familiarity(strangeness.measured(described, known), scale_of(held_out), len(held_out), batch_size)


def scale_of(strangeness: np.ndarray) -> dict[str, list[float]]:
    """Return the marks of a scale: the familiarity of an image is the share at the last mark that it exceeds, or 1.

    All n + 1 ranks of a new image among n held-out ones of the same kind are equally likely, so the probability of a
    familiarity below u is at most u (Bates et al. 2023).

    Args:
        strangeness: (n,), of held-out images, n at least 1.
    """
    descending, n_images = np.sort(strangeness)[::-1], len(strangeness)
    ranks = np.unique(np.geomspace(1, n_images, SCALE_MARKS).round().astype(int))[::-1]
    return {"strangeness": descending[ranks - 1].tolist(), "share": (ranks / (n_images + 1)).tolist()}


def _spread(n_images: int) -> np.ndarray:
    """Return the numbers of at most TRAINING_IMAGES images, evenly spread."""
    return np.unique(np.linspace(0, n_images - 1, min(n_images, TRAINING_IMAGES)).astype(int))
