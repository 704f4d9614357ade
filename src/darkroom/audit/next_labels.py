"""Choose the images to label first: unknown ones, then those that the model is least sure of. Pure."""

import math

import numpy as np

from darkroom.audit.pixels import SAME
from darkroom.data.preparation.decoding import perceptual_hashes

UNKNOWN_SHARE = 0.25  # maximum, so that a directory of unrelated images does not fill the list
SAME_BITS = 4  # maximum Hamming distance between perceptual hashes of copies


def label_next(
    probabilities: np.ndarray, copies: np.ndarray, *, n: int, unknown: np.ndarray | None = None
) -> np.ndarray:
    """Return the positions of at most n images, the most useful to label first.

    Unknown images come first, up to a quarter of n, then images in order of margin, the difference of the two highest
    probabilities (Scheffer et al. 2001); further unknown images fill the rest. Of images that are copies of each other,
    such as frames of a film, one is chosen.

    Args:
        probabilities: (m, classes), of the model.
        copies: uint8 (m, h, w, C), see pixels.small_copies.
        n: at least 1.
        unknown: bool (m,), images that the model does not know; None if it cannot tell.
    """
    ordered = np.sort(probabilities, axis=1)
    by_margin = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")
    hashes = perceptual_hashes(copies)
    chosen = list[int]()
    if unknown is not None:
        strange, by_margin = by_margin[unknown[by_margin]], by_margin[~unknown[by_margin]]
        _choose(strange, hashes, copies, chosen, most=math.ceil(UNKNOWN_SHARE * n))
        _choose(by_margin, hashes, copies, chosen, most=n)
        by_margin = strange  # the chosen ones are skipped as copies of themselves
    _choose(by_margin, hashes, copies, chosen, most=n)
    return np.array(chosen, np.int64)


def _choose(candidates: np.ndarray, hashes: np.ndarray, copies: np.ndarray, chosen: list[int], *, most: int) -> None:
    """Append candidates that are not copies of chosen ones, until there are `most`."""
    for one in candidates.tolist():
        if len(chosen) >= most:
            return
        similar = np.bitwise_count(hashes[chosen] ^ hashes[one]) <= SAME_BITS
        others = copies[np.array(chosen, np.int64)[similar]].astype(np.float32)
        if not (np.abs(others - copies[one]).mean(axis=(1, 2, 3)) < SAME).any():
            chosen.append(one)
