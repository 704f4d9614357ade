"""The split into train, val, test and recent: by content, every class in every split; incoming images move nothing.

Near-duplicates form a group that stays whole; an image that resembles no other is a group of its own. Every group has
a number in [0, 1), the hash of the seed and of the smallest id in it.

- Images that the dataset itself puts in val or test stay there.
- Other images of the dataset: within each class the groups are ranked by number. The first go to test, unless the
  dataset has a test set, the next to val, unless it has validation images of the class, and the rest to train. So no
  split is empty, and the shares of each class are those asked for within one image, as far as the sizes of the groups
  allow.
- Incoming images: the number alone says the split; beside an official test set it is recent instead of test. Only
  where this leaves a class without an image in a split, one of its incoming groups is put there.

What may move, with the same params:

- No image of the dataset, when incoming images come or go.
- When an image joins or leaves the dataset, at most two others, of its class and at the limits between the splits;
  near-duplicates can take more with them. With the first image of an official test set, everything.
- An incoming image that resembles another one, when the other comes or goes: the group goes where its smallest id
  goes, or with what it resembles in the dataset, or out. And one of a class of which the numbers leave a split empty,
  until they no longer do. Every other incoming image keeps its split, whatever comes or goes.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES
from darkroom.data.preparation.near_duplicates import joined, near_duplicate_components
from darkroom.errors import DataError

_OF_TEST = "near-duplicate of a test image"
_OF_VAL = "near-duplicate of a validation image"
_REPEATED = "near-duplicate"
_OF_TWO_SPLITS = "near-duplicate of images in two splits, or in one group with them"
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
        near: int64 (n,), for every row the first row that it resembles, or that those resemble which it does; its own
            number where it resembles none, or near-duplicates are kept.
    """

    splits: np.ndarray
    groups: np.ndarray
    dropped: list[tuple[int, int, str]]
    near: np.ndarray


class Images(NamedTuple):
    """What the split depends on, one entry per image.

    Attributes:
        ids: uint8 (n, 32), no two alike.
        labels: int (n,).
        official: int8 (n,), test or val where the dataset itself says so, else train.
        incoming: bool (n,), images that were dropped in later.
        hashes: uint64 (n,), perceptual hashes; not looked at where near-duplicates are kept.
        groups: int (n,): images with the same number stay together, as those of one patient; -1: on its own.
    """

    ids: np.ndarray
    labels: np.ndarray
    official: np.ndarray
    incoming: np.ndarray
    hashes: np.ndarray
    groups: np.ndarray


def assign(
    images: Images, *, near_duplicates: str, near_duplicate_bits: int, seed: int, fractions: Fractions
) -> Assignment:
    """Return the split of every image; the rules are at the top of this module.

    - "keep" does not look for near-duplicates; "group" puts them on one side; "drop" does so and then keeps the first
      of each label. Two labels in a group are two opinions, both are kept.
    - What resembles an official test image is dropped from train and val, what resembles an official validation image
      from train.
    - Groups are first made without the incoming images, so these never move an image of the dataset. Incoming images
      join the group that they resemble or are given to; one of groups on two sides belongs to neither, and is dropped.

    Args:
        near_duplicates: "keep", "drop" or "group".
        near_duplicate_bits: largest Hamming distance of two hashes of one image, of 64. Above 8 the search compares
            too many pairs, and different images pass for one.
        seed: of the numbers.
        fractions: of the splits.
    """

    def near(rows: np.ndarray) -> np.ndarray:
        if near_duplicates == "keep":
            return np.arange(len(rows))
        return near_duplicate_components(images.hashes[rows], bits=near_duplicate_bits)

    draft = _Draft(images, near, drop=near_duplicates == "drop", seed=seed)
    draft.group_dataset()
    draft.rank_dataset(fractions)
    draft.group_incoming()
    draft.draw_incoming(fractions)
    return draft.assignment()


class _Draft:
    """A split in the making: first of the dataset by itself, then of the incoming images.

    Args:
        near: returns of these rows (m,) the component of near-duplicates that each belongs to: (m,).
        drop: whether near-duplicates are dropped.

    Attributes:
        groups, near: int64 (n,), see Assignment.
        sides: int8 (n,), the split of every group, at the row whose id decides.
        dropped: see Assignment.
    """

    def __init__(self, images: Images, near: Callable[[np.ndarray], np.ndarray], *, drop: bool, seed: int) -> None:
        self._ids, self._labels, self._official, self._incoming = images[:4]
        self._given, self._near = images.groups, near
        self._is_tested, self._drop = bool((images.official == _TEST).any()), drop
        self._numbers = _numbers(images.ids, seed=seed)
        self.groups = np.arange(len(images.ids))
        self.near = near(self.groups)
        self.sides = np.full(len(images.ids), _TRAIN, np.int8)
        self.dropped: list[tuple[int, int, str]] = []

    def group_dataset(self) -> None:
        """Make groups of those rows of the dataset that resemble each other, or were given together."""
        rows = np.flatnonzero(~self._incoming)
        components = self._near(rows)
        for part in (rows[part] for part in _several(components)):
            if official := self._held_out(part):
                held, reason = official
                self.groups[part] = _smallest(self._ids, held)
                self._leave(part[self._official[part] != self._official[held[0]]], held[0], reason)
            elif self._drop:
                self.dropped += _repeats(part, labels=self._labels)
        for part in self._together(rows, components):
            official = self._held_out(part)
            self.groups[part] = _smallest(self._ids, official[0] if official else part)

    def rank_dataset(self, fractions: Fractions) -> None:
        """Choose the sides of the dataset's groups."""
        for side in (_VAL, _TEST):
            self.sides[self.groups[self._kept(self._official == side)]] = side
        with_val = set(self._labels[self._kept(self._official == _VAL)].tolist())
        for code, keys, sizes in self._classes(~self._incoming & (self._official == _TRAIN)):
            shares = {} if self._is_tested else {_TEST: fractions.test}
            shares |= {} if code in with_val else {_VAL: fractions.val}
            found = _ranked(sizes, _quotas(int(sizes.sum()), shares))
            _fill(found, sizes, needed=[*shares, _TRAIN])
            self.sides[keys] = found

    def group_incoming(self) -> None:
        """Let incoming rows join the rows of the dataset that they resemble or were given to, or be a group."""
        rows, components = np.arange(len(self._ids)), self.near
        for part in _several(components):
            old, new = part[~self._incoming[part]], part[self._incoming[part]]
            if official := self._held_out(old):
                self._leave(new, official[0][0], official[1])
        for part in self._together(rows, components):
            old, new = part[~self._incoming[part]], part[self._incoming[part]]
            if official := self._held_out(old):
                side = "test" if self._official[official[0][0]] == _TEST else "validation"
                self._leave(new, official[0][0], f"in one group with a {side} image")
            elif len(np.unique(self.sides[self.groups[old]])) > 1:
                self._leave(new, old[0], _OF_TWO_SPLITS)
            elif len(new) > 0:
                self.groups[new] = _smallest(self._ids, old if len(old) > 0 else new)
        if self._drop:
            gone = {row for row, _, _ in self.dropped}
            for part in _several(components):
                new = part[self._incoming[part]]
                self.dropped += _repeats(part, labels=self._labels, candidates=new[~np.isin(new, [*gone])])

    def draw_incoming(self, fractions: Fractions) -> None:
        """Choose the sides of the groups that are incoming images alone."""
        held = {_RECENT: fractions.recent} if self._is_tested else {_TEST: fractions.test}
        shares = {**held, _VAL: fractions.val}
        limits, outcomes = np.cumsum([*shares.values()]), np.array([*shares, _TRAIN], np.int8)
        ranked = {code: keys for code, keys, _ in self._classes(~self._incoming & (self._official != _TEST))}
        known = set(self._labels[self._kept(~self._incoming)].tolist())
        for code, keys, sizes in self._classes(self._incoming[self.groups]):
            found = outcomes[np.searchsorted(limits, self._numbers[keys], side="right")]
            tested = self._is_tested and code in known
            needed = [split for split in outcomes.tolist() if not (tested and split == _RECENT)]
            _fill(found, sizes, needed=needed, others=self.sides[ranked[code]] if code in ranked else ())
            self.sides[keys] = found

    def assignment(self) -> Assignment:
        """Return what was chosen."""
        splits = self.sides[self.groups]
        splits[self._official != _TRAIN] = self._official[self._official != _TRAIN]
        splits[[row for row, _, _ in self.dropped]] = _UNUSED
        return Assignment(splits, self.groups, sorted(self.dropped), self.near)

    def _together(self, rows: np.ndarray, components: np.ndarray) -> list[np.ndarray]:
        """Return parts of rows that belong together, by component or as given; without those that left a held-out one.

        Args:
            components: of the near-duplicates among rows, (m,).
        """
        left = {row for row, _, reason in self.dropped if reason != _REPEATED}
        kept = np.flatnonzero(~np.isin(rows, [*left]))
        roots = np.unique(components[kept], return_index=True, return_inverse=True)
        linked = np.asarray(roots[1][roots[2]])
        given = self._given[rows[kept]]
        order = np.argsort(given, kind="stable")
        same = (given[order[1:]] == given[order[:-1]]) & (given[order[1:]] >= 0)
        linked = joined(linked, order[:-1][same], order[1:][same])
        return [rows[kept[part]] for part in _several(linked)]

    def _held_out(self, rows: np.ndarray) -> tuple[np.ndarray, str] | None:
        """Return those of rows that the dataset puts in test, else in val, and why others leave; None: neither."""
        for side, reason in ((_TEST, _OF_TEST), (_VAL, _OF_VAL)):
            if len(found := rows[self._official[rows] == side]) > 0:
                return found, reason
        return None

    def _leave(self, rows: np.ndarray, of: np.intp, reason: str) -> None:
        self.dropped += [(row, int(of), reason) for row in rows.tolist()]

    def _kept(self, asked: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows that are asked for (bool (n,)) and not dropped."""
        kept = asked.copy()
        kept[[row for row, _, _ in self.dropped]] = False
        return np.flatnonzero(kept)

    def _classes(self, asked: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the label of each class with its groups: their keys, in the order of their numbers, and their sizes.

        A group of several classes counts as one of the rarest.
        """
        rows = self._kept(asked)
        rarity = np.bincount(self._labels[rows])[self._labels[rows]]
        rows = rows[np.lexsort((self._numbers[rows], rarity))]
        keys, first, sizes = np.unique(self.groups[rows], return_index=True, return_counts=True)
        labels = self._labels[rows[first]]
        for own in _parts(np.arange(len(keys)), labels):
            ranked = own[np.argsort(self._numbers[keys[own]], kind="stable")]
            yield int(labels[own[0]]), keys[ranked], sizes[ranked]


def _numbers(ids: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for every id, float64 (n,)."""
    digests = (hashlib.sha256(b"%d:" % seed + row.tobytes()).digest() for row in ids)
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests], np.float64)


def _quotas(n_images: int, shares: Mapping[int, float]) -> dict[int, int]:
    """Return how many of n images each split gets: its share within one image, at least one, and one left for train.

    >>> _quotas(20, {2: 0.15, 1: 0.1}), _quotas(4, {2: 0.15, 1: 0.1})
    ({2: 3, 1: 2}, {2: 1, 1: 1})
    """
    quotas, end, total = {}, 0, 0.0
    for n_later, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        total += share
        start, end = end, max(end, min(max(math.floor(total * n_images + 0.5), end + 1), n_images - n_later))
        quotas[split] = end - start
    return quotas


def _ranked(sizes: np.ndarray, quotas: Mapping[int, int]) -> np.ndarray:
    """Return the splits of groups in the order of their rank: the first of which the quota is at least half open."""
    room = dict(quotas)
    splits = np.full(len(sizes), _TRAIN, np.int8)
    for position, size in enumerate(sizes.tolist()):
        split = next((split for split in room if 2 * room[split] >= size), None)
        if split is not None:
            splits[position] = split
            room[split] -= size
    return splits


def _fill(splits: np.ndarray, sizes: np.ndarray, *, needed: Sequence[int], others: Iterable[int] = ()) -> None:
    """Put into each split of `needed` that has no group the smallest one of the split that has most, if it has two.

    Args:
        splits: of the groups that may move; changed in place.
        sizes: of these groups.
        others: splits of the groups of this class that stay where they are.
    """
    for wanted in needed:
        n_groups = Counter([*others, *splits.tolist()])
        able = [place for place, split in enumerate(splits.tolist()) if n_groups[split] > 1 or split not in needed]
        if n_groups[wanted] == 0 and able:
            splits[min(able, key=lambda place: (-n_groups[int(splits[place])], sizes[place]))] = wanted


def check_classes(
    assignment: Assignment,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    official_test: np.ndarray,
    incoming: np.ndarray,
    listed_in: Path | str,
) -> None:
    """Check that there is something to learn and to measure: two classes, each with images in every split.

    Beside an official test set, a class that only incoming images have needs recent images instead of test images.

    Args:
        listed_in: the file that lists the near-duplicates.

    Raises:
        DataError: no image, one class only, a class with fewer images than splits, or a split without one of a class.
    """
    splits, used = assignment.splits, assignment.splits != _UNUSED
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
                n_groups = len(np.unique(assignment.groups[own & ~official_test]))
                raise DataError(
                    f"class {name!r} has {n_images} images in {n_groups} group{'s' * (n_groups != 1)} of "
                    f"near-duplicates (or of preprocess.group_by), which stay together, and none is left for {split}; "
                    f"{listed_in} lists them: add images that differ, lower preprocess.near_duplicate_bits, or set "
                    "preprocess.near_duplicates: keep (right for a fixed camera)"
                )
        if official and not new and not np.any(official_test[own]):
            raise DataError(f"class {name!r} has no images in the official test set; add some or remove the class")


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
            found.append((row, kept, _REPEATED))
    return found
