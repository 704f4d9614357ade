"""Sample images of the prepared data for a contact sheet."""

import numpy as np

from darkroom.data.arrays.dataset import Dataset

PER_CLASS = 6
CLASSES = 40  # maximum that is legible on one sheet


def samples(data: Dataset) -> tuple[np.ndarray, list[str]]:
    """Return the first training images of each of the first classes, uint8 (n, H, W, C), and their classes."""
    train = data.rows("train")
    chosen = [
        row
        for code in range(min(len(data.classes), CLASSES))
        for row in train[data.labels[train] == code][:PER_CLASS].tolist()
    ]
    return data.images[chosen], [data.classes[data.labels[row]] for row in chosen]
