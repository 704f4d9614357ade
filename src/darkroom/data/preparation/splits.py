"""The split into train, val and test by content; incoming images never move an image of the dataset.

Copies of one image stay on one side, and an official test set stays the test set. With the same parameters, an
image that resembles no other keeps its split whatever comes or goes, but for the first official test image. What may
move is an incoming image, when a later incoming one resembles it: the two then go where the smaller id goes, or with
what the later one resembles in the dataset, or out; and images of the dataset, when near-duplicates join or leave the
dataset itself.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES
from darkroom.errors import DataError

_OF_TEST = "near-duplicate of a test image"
_OF_TWO_SPLITS = "near-duplicate of images in two splits"
_TRAIN, _VAL, _TEST, _RECENT, _UNUSED = (SPLIT_CODES[name] for name in ("train", "val", "test", "recent", "unused"))


class Fractions(NamedTuple):
    """The shares of the splits that are not train, each in (0, 1).

    Attributes:
        val: of the images outside an official test set.
        test: the same; not used where there is an official test set.
        recent: of the incoming images; used only where there is an official test set.
    """

    val: float
    test: float
    recent: float


class Assignment(NamedTuple):
    """The split of every row, and the near-duplicates that were dropped or grouped.

    Attributes:
        splits: int8 (n,), codes of dataset.SPLIT_CODES.
        groups: int64 (n,), for every row the row whose id decides its split; its own number where it resembles none.
        dropped: (row that became unused, row that it repeats, reason), in the order of the rows.
    """

    splits: np.ndarray
    groups: np.ndarray
    dropped: list[tuple[int, int, str]]


def assign(
    *,
    ids: np.ndarray,
    labels: np.ndarray,
    official_test: np.ndarray,
    incoming: np.ndarray,
    hashes: np.ndarray,
    near_duplicates: str,
    near_duplicate_bits: int,
    seed: int,
    fractions: Fractions,
) -> Assignment:
    """Return the split of every row: drawn by seed and id, near-duplicates together; test only if none is official.

    - "keep" does not look for near-duplicates; "group" puts them on one side, that of the smallest id; "drop" does so
      and then keeps the first of each label. Two labels in a group are two opinions, both are kept.
    - What resembles an official test image is dropped from train and val.
    - Groups are first made without the incoming images, so these never move an image of the dataset. Incoming images
      join the group that they resemble; one that resembles groups on two sides belongs to neither, and is dropped.
      A group of incoming images alone takes the side of its smallest id, so it can move when another one joins it.

    Args:
        ids: uint8 (n, 32), no two alike.
        labels: int (n,).
        official_test: bool (n,), rows that the data themselves put in the test set.
        incoming: bool (n,), rows that were dropped in later.
        hashes: uint64 (n,), perceptual hashes; not looked at by "keep".
        near_duplicates: "keep", "drop" or "group".
        near_duplicate_bits: largest Hamming distance of two hashes of one image, of 64. Above 8 the search compares
            too many pairs, and different images pass for one.
        seed: of the draw.
    """
    official = bool(official_test.any())

    def draw(key: int) -> int:
        if not official:
            shares = {_TEST: fractions.test, _VAL: fractions.val}
        else:
            shares = {_RECENT: fractions.recent if incoming[key] else 0.0, _VAL: fractions.val}
        return _draw(ids[key], seed=seed, shares=shares)

    everyone = np.arange(len(ids))
    components = old_components = everyone
    if near_duplicates != "keep":
        components = near_duplicate_components(hashes, bits=near_duplicate_bits)
        old_components = everyone.copy()
        old = np.flatnonzero(~incoming)
        old_components[old] = old[near_duplicate_components(hashes[old], bits=near_duplicate_bits)]
    groups = everyone.copy()
    dropped: list[tuple[int, int, str]] = []
    for rows in _several(components):
        old, new = rows[~incoming[rows]], rows[incoming[rows]]
        sides = set()
        for part in _parts(old, old_components):
            tests = part[official_test[part]]
            groups[part] = _smallest(ids, tests if len(tests) > 0 else part)
            if len(tests) > 0:
                dropped += [(row, int(tests[0]), _OF_TEST) for row in part[~official_test[part]].tolist()]
            elif near_duplicates == "drop":
                dropped += _repeats(part, labels=labels)
            sides.add(_TEST if len(tests) > 0 else draw(int(groups[part[0]])))
        tests = old[official_test[old]]
        if len(tests) > 0:
            dropped += [(row, int(tests[0]), _OF_TEST) for row in new.tolist()]
        elif len(sides) > 1:
            dropped += [(row, int(old[0]), _OF_TWO_SPLITS) for row in new.tolist()]
        elif len(new) > 0:
            groups[new] = _smallest(ids, old if len(old) > 0 else new)
            if near_duplicates == "drop":
                dropped += _repeats(rows, labels=labels, candidates=new)
    drawn = {key: draw(key) for key in np.unique(groups).tolist()}
    splits = np.array([drawn[key] for key in groups.tolist()], np.int8)
    splits[official_test] = _TEST
    splits[[row for row, _, _ in dropped]] = _UNUSED
    return Assignment(splits, groups, sorted(dropped))


def near_duplicate_components(hashes: np.ndarray, *, bits: int) -> np.ndarray:
    """Return for every row the first row of its component, int64 (n,): rows are linked when hashes differ in <= bits.

    The 64 bits are cut into bits + 2 blocks: two hashes that differ in at most `bits` bits agree in at least two whole
    blocks. So it is enough to compare rows that share two blocks, which for every two blocks are neighbours after
    sorting. Memory is a few numbers per row; time grows like n log n unless very many hashes share blocks.

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
            roots = _joined(roots, left[near], right[near])
    first_row = np.full(len(unique), len(hashes))
    np.minimum.at(first_row, roots, first)
    return np.asarray(first_row[roots][inverse], np.int64)


def check_classes(
    splits: np.ndarray, labels: np.ndarray, *, classes: Sequence[str], official_test: np.ndarray, incoming: np.ndarray
) -> None:
    """Check that there is something to learn and to measure: two classes, each with images in every split.

    Beside an official test set, a class that only incoming images have needs recent images instead of test images.

    Raises:
        DataError: no image, one class only, a class with fewer images than splits, or a split without one of a class.
    """
    used = splits != _UNUSED
    n_classes = np.count_nonzero(np.bincount(labels[used], minlength=len(classes)))
    if n_classes < 2:
        found = f"only one class, {classes[labels[used][0]]!r}" if n_classes else "no usable images"
        raise DataError(f"found {found}; expected at least two classes with images in each")
    official = bool(official_test.any())
    for code, name in enumerate(classes):
        own = used & (labels == code)
        new = official and bool(np.all(incoming[own]))
        drawn = ("train", "val", *(["recent"] if new else [] if official else ["test"]))
        n_images = int(np.count_nonzero(own & ~official_test))
        if n_images < len(drawn):
            raise DataError(
                f"class {name!r} has {n_images} usable image{'s' * (n_images != 1)} for {len(drawn)} splits "
                f"({', '.join(drawn)}); add images to it or remove the class"
            )
        for split in drawn:
            if not np.any(splits[own] == SPLIT_CODES[split]):
                raise DataError(
                    f"class {name!r} has {n_images} images, but the random split left none for {split}; add images, "
                    "raise the split's fraction in preprocess, or change preprocess.seed"
                )
        if official and not new and not np.any(official_test[own]):
            raise DataError(f"class {name!r} has no images in the official test set; add some or remove the class")


def _draw(image_id: np.ndarray, *, seed: int, shares: Mapping[int, float]) -> int:
    """Return the split on whose share of [0, 1) the number of the image falls; the rest is train."""
    number = int.from_bytes(hashlib.sha256(b"%d:" % seed + image_id.tobytes()).digest()[:8], "big") / 2**64
    end = 0.0
    for split, share in shares.items():
        end += share
        if number < end:
            return split
    return _TRAIN


def _several(components: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of every component that has more than one."""
    _, inverse, counts = np.unique(components, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[inverse] > 1)
    yield from _parts(rows, components)


def _parts(rows: np.ndarray, components: np.ndarray) -> list[np.ndarray]:
    """Return rows cut into those of equal component, each part in ascending order."""
    if len(rows) == 0:
        return []
    ordered = rows[np.argsort(components[rows], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(components[ordered])) + 1)


def _smallest(ids: np.ndarray, rows: np.ndarray) -> int:
    return int(min(rows, key=lambda row: ids[row].tobytes()))


def _repeats(
    rows: np.ndarray, *, labels: np.ndarray, candidates: np.ndarray | None = None
) -> list[tuple[int, int, str]]:
    """Return those of candidates (None: of rows) that repeat the label of an earlier one of rows."""
    first: dict[int, int] = {}
    found = []
    asked = set((rows if candidates is None else candidates).tolist())
    for row in rows.tolist():
        kept = first.setdefault(int(labels[row]), row)
        if kept != row and row in asked:
            found.append((row, kept, "near-duplicate"))
    return found


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


def _joined(roots: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
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
