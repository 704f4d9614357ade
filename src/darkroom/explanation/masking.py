"""Maps of any model: RISE (Petsiuk et al. 2018), which covers parts of an image and looks at the answers."""

from collections.abc import Callable

import cv2
import numpy as np

GRID = 7  # cells per edge that are covered or not
BATCH = 64
LEAST = 1e-4  # probabilities beyond are told apart by rounding alone

Answers = Callable[[np.ndarray], np.ndarray]  # uint8 (n, H, W, C) to probabilities (n, classes)


def masks(height: int, width: int, *, n: int, seed: int) -> np.ndarray:
    """Return n masks float32 (n, height, width), 1 where the image is seen: half of them the others' opposites."""
    rng = np.random.default_rng(seed)
    cell = -(-height // GRID), -(-width // GRID)
    found = np.empty((n, height, width), np.float32)
    for number in range(0, n, 2):
        coarse = rng.integers(0, 2, (GRID + 1, GRID + 1)).astype(np.float32)
        large = cv2.resize(coarse, ((GRID + 1) * cell[1], (GRID + 1) * cell[0]), interpolation=cv2.INTER_LINEAR)
        top, left = rng.integers(0, cell[0]), rng.integers(0, cell[1])
        found[number] = large[top : top + height, left : left + width]
        if number + 1 < n:
            found[number + 1] = 1 - found[number]
    return found


def rise(answers: Answers, image: np.ndarray, label: int, covers: np.ndarray) -> np.ndarray:
    """Return how much seeing each place raises the log-odds of a class: float32 (H, W).

    It is the covariance of the masks and the log-odds. Covered places get the mean colour of the image.

    Args:
        answers: of the model.
        image: uint8 (H, W, C).
        label: of which class the map is.
        covers: what `masks` returned.
    """
    mean = image.reshape(-1, image.shape[2]).mean(axis=0)
    log_odds = np.empty(len(covers), np.float32)
    for start in range(0, len(covers), BATCH):
        part = covers[start : start + BATCH, :, :, None]
        seen = np.rint(part * image + (1 - part) * mean).astype(np.uint8)
        probabilities = np.clip(answers(seen)[:, label], LEAST, 1 - LEAST)
        log_odds[start : start + BATCH] = np.log(probabilities / (1 - probabilities))
    centred = log_odds - log_odds.mean()
    return np.asarray(np.einsum("n,nhw->hw", centred, covers) / len(covers), np.float32)
