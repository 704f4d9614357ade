"""How training is fed: batches of pictures, with the random draws that vary them. Numpy only.

The draws of an epoch are a function of (seed, epoch) alone, made here and applied on the device (models.Draws): the
same on every Keras backend, and after a resume.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from darkroom.errors import TrainingError


class Selection:
    """Rows of one or several picture arrays as one array, read when indexed: memory-mapped shards stay on disk.

    Args:
        parts: pairs (images, rows): images is indexable by an int array and gives uint8 (n, H, W, C); rows are (n,).
    """

    def __init__(self, parts: Sequence[tuple[Any, np.ndarray]]) -> None:
        self._parts = [(images, rows) for images, rows in parts if len(rows)]
        self._starts = np.cumsum([0, *(len(rows) for _, rows in self._parts)])
        self.shape = (int(self._starts[-1]), *parts[0][0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        """Return uint8 (len(chosen), H, W, C) in the order asked for."""
        if len(self._parts) == 1:
            images, rows = self._parts[0]
            return np.asarray(images[rows[chosen]])
        gathered = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        part_of = np.searchsorted(self._starts, chosen, side="right") - 1
        for part, (images, rows) in enumerate(self._parts):
            here = part_of == part
            gathered[here] = images[rows[chosen[here] - self._starts[part]]]
        return gathered


class EpochBatches:
    """One epoch of shuffled batches: ((pictures uint8 (b, H, W, C), draws int32 (b, 5)), one-hot float32 (b, classes)).

    The last, smaller batch is left out, since it would be compiled apart; the next epoch shuffles anew. The draws are
    what models.Draws takes: rows down, columns right, mirrored, top and left of the cutout.

    Args:
        images: indexable by an int array, gives uint8 (n, H, W, C).
        labels: (n,) int, class numbers.
        n_classes: width of the one-hot labels.
        batch_size: pictures per step, at most n.
        seed, epoch: decide order and draws.
        shift: greatest shift in pixels, each axis.
        flip: whether half of the pictures are mirrored left to right.
        cutout: edge in pixels of a square set to 0 at a random place; 0 for none.

    Raises:
        TrainingError: fewer pictures than one batch.
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
        shift: int = 0,
        flip: bool = False,
        cutout: int = 0,
    ) -> None:
        n_images = len(labels)
        if n_images < batch_size:
            raise TrainingError(f"{n_images} training images do not fill one batch of {batch_size}; lower batch_size")
        rng = np.random.default_rng([seed, epoch])
        self.images, self.labels, self.n_classes, self.batch_size = images, labels, n_classes, batch_size
        self.order = rng.permutation(n_images)
        height, width = images.shape[1:3]
        self.draws = np.zeros((n_images, 5), np.int32)
        if shift:
            self.draws[:, :2] = rng.integers(-shift, shift + 1, (n_images, 2))
        if flip:
            self.draws[:, 2] = rng.integers(0, 2, n_images)
        if cutout:
            self.draws[:, 3] = rng.integers(0, max(1, height - cutout + 1), n_images)
            self.draws[:, 4] = rng.integers(0, max(1, width - cutout + 1), n_images)

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __getitem__(self, step: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        chosen = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        one_hot = np.eye(self.n_classes, dtype=np.float32)[self.labels[chosen]]
        return (self.images[chosen], self.draws[chosen]), one_hot


class PlainBatches:
    """All pictures in order, the last batch smaller: (pictures uint8 (b, H, W, C), one-hot float32 (b, classes))."""

    def __init__(self, images: Any, labels: np.ndarray, *, n_classes: int, batch_size: int) -> None:
        self.images, self.labels, self.n_classes, self.batch_size = images, labels, n_classes, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(self.labels)))
        return self.images[chosen], np.eye(self.n_classes, dtype=np.float32)[self.labels[chosen]]
