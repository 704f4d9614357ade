"""Find the images that resemble each other, by their perceptual hashes."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np


def near_duplicate_components(hashes: np.ndarray, *, bits: int) -> np.ndarray:
    """Return for every row the first row of its component, int64 (n,): rows are linked when hashes differ in <= bits.

    The 64 bits are divided into bits + 2 blocks. Two hashes that differ in at most `bits` bits agree in at least two
    whole blocks, so only rows that share two blocks are compared; sorting by each pair of blocks makes them neighbours.
    Memory is a few numbers per row; time grows like n log n unless very many hashes share blocks.

    >>> near_duplicate_components(np.array([0b1111, 0b1110, 1 << 60], np.uint64), bits=1).tolist()
    [0, 0, 2]
    """
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    roots = np.arange(len(unique))
    edges = np.linspace(0, 64, bits + 3).astype(int).tolist()
    blocks = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    for one, other in combinations(blocks, 2):
        for left, right in _sharing(unique, np.uint64(one | other)):
            near = np.bitwise_count(unique[left] ^ unique[right]) <= bits
            roots = joined(roots, left[near], right[near])
    first_row = np.full(len(unique), len(hashes))
    np.minimum.at(first_row, roots, first)
    return np.asarray(first_row[roots][inverse], np.int64)


def joined(roots: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the components' roots (the smallest position of each) after linking every left with its right."""
    while len(left) > 0:
        low = np.minimum(roots[left], roots[right])
        np.minimum.at(roots, roots[left], low)
        np.minimum.at(roots, roots[right], low)
        while np.any(roots != (further := roots[roots])):
            roots = further
        apart = roots[left] != roots[right]
        left, right = left[apart], right[apart]
    return roots


def _sharing(hashes: np.ndarray, mask: np.uint64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of positions whose hashes agree in the bits of the mask, at most one per position at a time."""
    keys = hashes & mask
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    left = np.arange(len(keys))
    for distance in range(1, len(keys)):
        left = left[left + distance < len(keys)]
        left = left[keys[left] == keys[left + distance]]
        if len(left) == 0:
            return
        yield order[left], order[left + distance]
