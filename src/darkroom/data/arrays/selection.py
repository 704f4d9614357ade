"""Rows of several arrays as one array."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Selection:
    """Rows of one or several image arrays as one array, read when indexed: memory-mapped shards stay on disk.

    Args:
        parts: pairs (images, rows): images is uint8 (n, H, W, C) and indexable by an int array; rows are (n,).
    """

    def __init__(self, parts: Sequence[tuple[Any, np.ndarray]]) -> None:
        self._parts = [(images, rows) for images, rows in parts if len(rows)]
        self._starts = np.cumsum([0, *(len(rows) for _, rows in self._parts)])
        self.shape = (int(self._starts[-1]), *parts[0][0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        """Return uint8 (len(chosen), H, W, C) in the order of chosen."""
        if len(self._parts) == 1:
            images, rows = self._parts[0]
            return np.asarray(images[rows[chosen]])
        gathered = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        part_of = np.searchsorted(self._starts, chosen, side="right") - 1
        for part, (images, rows) in enumerate(self._parts):
            here = part_of == part
            gathered[here] = images[rows[chosen[here] - self._starts[part]]]
        return gathered
