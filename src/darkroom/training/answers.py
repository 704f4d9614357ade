"""Masks of correctly classified validation images: packed as text for JSON, checkpoints and studies, and compared."""

import numpy as np

from darkroom.evaluation.metrics import paired


def packed(right: np.ndarray) -> str:
    """Return a mask of correct answers, bool (n,), as text of about n / 4 characters."""
    return f"{len(right)}:{np.packbits(right).tobytes().hex()}"


def unpacked(text: str) -> np.ndarray:
    """Return the mask of a packed text: bool (n,)."""
    n_images, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=int(n_images)).astype(bool)


def is_less_accurate(one: np.ndarray, other: np.ndarray, *, alpha: float = 0.05) -> bool:
    """Return whether one mask has significantly fewer correct answers than another, by McNemar's test."""
    counts = paired.table(other, one)
    return counts.difference > 0 and paired.gain_p_value(counts.only_a, counts.only_b)[0] <= alpha
