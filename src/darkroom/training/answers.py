"""Masks of correctly classified validation images: packed as text for JSON, checkpoints and studies, and compared."""

import numpy as np


def packed(right: np.ndarray) -> str:
    """Return a mask of correct answers, bool (n,), as text of about n / 4 characters."""
    return f"{len(right)}:{np.packbits(right).tobytes().hex()}"


def unpacked(text: str) -> np.ndarray:
    """Return the mask of a packed text: bool (n,)."""
    n_images, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=int(n_images)).astype(bool)


def is_less_accurate(one: str, other: str, *, alpha: float = 0.05) -> bool:
    """Return whether one packed mask has significantly fewer correct answers than another (exact McNemar test)."""
    from scipy.stats import binomtest

    ours, theirs = unpacked(one), unpacked(other)
    lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    return lost > won and bool(binomtest(lost, lost + won, alternative="greater").pvalue <= alpha)
