"""The validation images that a network gets right, as text: JSON, checkpoints and studies can hold it. Numpy only."""

import numpy as np


def packed(right: np.ndarray) -> str:
    """Return which images are right, bool (n,), as text of about n / 4 characters."""
    return f"{len(right)}:{np.packbits(right).tobytes().hex()}"


def unpacked(text: str) -> np.ndarray:
    """Return what was packed: bool (n,)."""
    n_images, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=int(n_images)).astype(bool)
