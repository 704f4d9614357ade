"""Handwritten digits of 8x8 pixels (scikit-learn's), some with a wrong label, as data/prepared of a repository."""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from darkroom.data.arrays.dataset_writer import DatasetWriter

CLASSES = [str(digit) for digit in range(10)]
N_FLIPPED = 20


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 700 images uint8 (n, 8, 8, 1), their labels, and the labels of which N_FLIPPED are wrong."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = (found.images[:700] * 15).astype(np.uint8)[..., None], found.target[:700].astype(np.int64)
    rng = np.random.default_rng(0)
    flipped = labels.copy()
    rows = rng.choice(len(labels), N_FLIPPED, replace=False)
    flipped[rows] = (labels[rows] + rng.integers(1, 10, N_FLIPPED)) % 10
    return images, labels, flipped


def ids_of(images: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes() + bytes([row % 251])).hexdigest() for row, image in enumerate(images)]


def write_prepared(root: Path, images: np.ndarray, labels: np.ndarray, **columns: Any) -> None:
    """Write data/prepared: every seventh image is a test image."""
    n = len(images)
    splits = np.where(np.arange(n) % 7 == 0, "test", np.where(np.arange(n) % 7 == 1, "val", "train"))
    index = pd.DataFrame({"row": range(n), "id": ids_of(images), "label": [CLASSES[code] for code in labels]})
    index = index.assign(split=splits, source=[f"{name}/{row}.png" for row, name in enumerate(index["label"])])
    index = index.assign(height=8, width=8, group=index["id"], incoming=False).assign(**columns)
    with DatasetWriter(root / "data" / "prepared", image_shape=images.shape[1:], shard_bytes=1 << 20) as writer:
        writer.append(images)
        writer.finish(index=index, manifest={"dataset": "digits", "classes": CLASSES, "color": "grey"})
    (root / "params.yaml").write_text("preprocess: {near_duplicate_bits: 4}\n")
