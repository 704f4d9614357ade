"""Maps of any model by RISE (Petsiuk et al. 2018), which covers parts of an image and compares the answers."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np

GRID = 7  # cells per edge that are covered or not
BATCH, BATCH_PIXELS = 64, 1 << 19  # maximum per inference: images, and their pixels; ten images at 224x224, in 20 MB
LEAST = 1e-4  # probabilities are clipped to it; smaller differences are rounding

Answers = Callable[[np.ndarray], np.ndarray]  # uint8 (n, H, W, C) to probabilities (n, classes)


def masks(height: int, width: int, *, n: int, seed: int) -> Iterator[np.ndarray]:
    """Yield n masks in batches, float32 (m, height, width), 1 where the image is seen.

    Every other one is the opposite of the one before it.
    """
    rng = np.random.default_rng(seed)
    cell = -(-height // GRID), -(-width // GRID)
    size = max(2, min(BATCH, BATCH_PIXELS // (height * width)) // 2 * 2)
    for start in range(0, n, size):
        found = np.empty((min(size, n - start), height, width), np.float32)
        for number in range(0, len(found), 2):
            coarse = rng.integers(0, 2, (GRID + 1, GRID + 1)).astype(np.float32)
            large = cv2.resize(coarse, ((GRID + 1) * cell[1], (GRID + 1) * cell[0]), interpolation=cv2.INTER_LINEAR)
            top, left = rng.integers(0, cell[0]), rng.integers(0, cell[1])
            found[number] = large[top : top + height, left : left + width]
            if number + 1 < len(found):
                found[number + 1] = 1 - found[number]
        yield found


def rise(answers: Answers, image: np.ndarray, label: int, *, n_masks: int, seed: int) -> np.ndarray:
    """Return how much each visible place raises the log-odds of a class: float32 (H, W).

    That is the covariance of masks and log-odds. Covered places get the mean colour of the image.

    Args:
        answers: the model.
        image: uint8 (H, W, C).
        label: the class of the map.
        n_masks: more masks give smoother maps and take longer; memory holds one batch of them.
        seed: of the masks.
    """
    mean = image.reshape(-1, image.shape[2]).mean(axis=0, dtype=np.float32)
    weighted, seen, total = np.zeros(image.shape[:2]), np.zeros(image.shape[:2]), 0.0
    for covers in masks(*image.shape[:2], n=n_masks, seed=seed):
        part = covers[:, :, :, None]
        probabilities = answers(np.rint(part * image + (1 - part) * mean).astype(np.uint8))[:, label]
        probabilities = np.clip(probabilities, LEAST, 1 - LEAST)
        log_odds = np.log(probabilities / (1 - probabilities)).astype(float)  # in float32, rounding would draw a map
        weighted += np.einsum("n,nhw->hw", log_odds, covers)
        seen += covers.sum(axis=0, dtype=float)
        total += float(log_odds.sum())
    return np.asarray((weighted - total / n_masks * seen) / n_masks, np.float32)
