"""Distribute the groups of a class over the splits, by numbers alone."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES


def group_numbers(ids: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for every id, float64 (n,)."""
    digests = (hashlib.sha256(b"%d:" % seed + row.tobytes()).digest() for row in ids)
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests], np.float64)


def quotas(n_images: int, shares: Mapping[int, float]) -> dict[int, int]:
    """Return the number of images of each split: its share within one image, at least one, and one left for train.

    >>> quotas(20, {2: 0.15, 1: 0.1}), quotas(4, {2: 0.15, 1: 0.1})
    ({2: 3, 1: 2}, {2: 1, 1: 1})
    """
    quotas, end, total = {}, 0, 0.0
    for n_later, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        total += share
        start, end = end, max(end, min(max(math.floor(total * n_images + 0.5), end + 1), n_images - n_later))
        quotas[split] = end - start
    return quotas


def in_rank_order(sizes: np.ndarray, quotas: Mapping[int, int]) -> np.ndarray:
    """Return the splits of groups in rank order: each gets the first split with room for at least half of it."""
    room = dict(quotas)
    splits = np.full(len(sizes), SPLIT_CODES["train"], np.int8)
    for position, size in enumerate(sizes.tolist()):
        split = next((split for split in room if 2 * room[split] >= size), None)
        if split is not None:
            splits[position] = split
            room[split] -= size
    return splits


def fill_empty(splits: np.ndarray, sizes: np.ndarray, *, needed: Sequence[int], others: Iterable[int] = ()) -> None:
    """Give each split of `needed` without a group the smallest group of the split with the most, if that has two.

    Args:
        splits: of the groups that may move; changed in place.
        sizes: of these groups.
        others: splits of the groups of this class that do not move.
    """
    for wanted in needed:
        n_groups = Counter([*others, *splits.tolist()])
        able = [place for place, split in enumerate(splits.tolist()) if n_groups[split] > 1 or split not in needed]
        if n_groups[wanted] == 0 and able:
            splits[min(able, key=lambda place: (-n_groups[int(splits[place])], sizes[place]))] = wanted
