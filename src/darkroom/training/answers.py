"""Pack the mask of correctly classified validation images as text for JSON, checkpoints and studies. Numpy only."""

import numpy as np


def packed(right: np.ndarray) -> str:
    """Return a mask of correct answers, bool (n,), as text of about n / 4 characters."""
    return f"{len(right)}:{np.packbits(right).tobytes().hex()}"


def unpacked(text: str) -> np.ndarray:
    """Return the mask of a packed text: bool (n,)."""
    n_images, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=int(n_images)).astype(bool)
