"""Batches of training images with the draws of random augmentation. Numpy only, OpenCV for MixUp.

Every draw is a function of (seed, epoch) alone. Draws are made here and, except MixUp and CutMix, applied on the device
(variation_layer.Draws), so they are the same on every Keras backend and after a resume.
"""

import math
from typing import Any

import numpy as np

from darkroom.errors import TrainingError
from darkroom.training.variation import Variation, draw, mix


class EpochBatches:
    """One epoch of shuffled batches: (inputs, labels float32 (b, classes)), with weights also those of weighted().

    The inputs are images uint8 (b, H, W, C), with augmentation (images, draws int32 (b, columns)), or feature vectors
    float32 (b, D), which are not augmented. The last, smaller batch is left out, because it would be compiled
    separately; the next epoch shuffles again.

    Args:
        images: uint8 (n, H, W, C) or float32 (n, D), indexable by an int array.
        labels: (n,) int, class numbers.
        n_classes: width of the labels.
        batch_size: images per step, at most n.
        seed, epoch: decide order and draws.
        variation: the random augmentations.
        weights: float32 (classes,); None: no weights.
        max_steps: maximum number of batches; None: all.

    Raises:
        TrainingError: fewer images than one batch.
    """

    def __init__(
        self,
        images: Any,
        labels: np.ndarray,
        *,
        n_classes: int,
        batch_size: int,
        seed: int,
        epoch: int,
        variation: Variation | None = None,
        weights: np.ndarray | None = None,
        max_steps: int | None = None,
    ) -> None:
        n_images = len(labels)
        if n_images < batch_size:
            raise TrainingError(f"{n_images} training images do not fill one batch of {batch_size}; lower batch_size")
        rng = np.random.default_rng([seed, epoch])
        self.images, self.labels, self.batch_size, self.weights = images, labels, batch_size, weights
        self.variation = variation or Variation()
        self.order = rng.permutation(n_images)
        self.draws = None
        if self.variation.n_columns:
            self.draws = draw(
                self.variation, n_images=n_images, image_size=images.shape[1:3], seed=seed, epoch=epoch, rng=rng
            )
        self._steps = n_images // batch_size if max_steps is None else min(n_images // batch_size, max_steps)
        self._one_hot = np.eye(n_classes, dtype=np.float32)
        self._key = (seed, epoch)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        chosen = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        images, labels = self.images[chosen], self._one_hot[self.labels[chosen]]
        if self.variation.mixes:
            rng = np.random.default_rng([*self._key, step + 2])
            mixup, cutmix = self.variation.mixup, self.variation.cutmix
            images, labels = mix(images, labels, mixup=mixup, cutmix=cutmix, rng=rng)
        inputs = images if self.draws is None else (images, self.draws[chosen])
        return (inputs, labels) if self.weights is None else (inputs, *weighted(labels, self.weights))


def weighted(labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and weights of images, so that every class has its own weight in the loss.

    The loss of an image is the sum over its labels, each times the weight of its class, also for mixed images. So the
    labels are weighted and then divided by their sum, which becomes the weight of the image.

    Args:
        labels: float32 (b, classes), each row with a sum of 1.
        weights: float32 (classes,), at least 0.

    Returns:
        float32 (b, classes), each row with a sum of 1, and float32 (b,).
    """
    parts = labels * weights
    sums = parts.sum(axis=1)
    return np.divide(parts, sums[:, None], out=labels.copy(), where=sums[:, None] > 0), sums


class OneBatch:
    """The first batch, repeated as many times as there are batches, for debugging."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batch_size, self._steps, self._batch = batches.batch_size, len(batches), batches[0]

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, _step: int) -> tuple[Any, ...]:
        return self._batch


class PlainBatches:
    """All images in order, the last batch smaller: (images uint8 (b, H, W, C), one-hot float32 (b, classes))."""

    def __init__(self, images: Any, labels: np.ndarray, *, n_classes: int, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self._one_hot = np.eye(n_classes, dtype=np.float32)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(self.labels)))
        return self.images[chosen], self._one_hot[self.labels[chosen]]
