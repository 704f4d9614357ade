"""The split into train, val, test and recent: by content, with every class in every split.

Near-duplicates form a group that is never divided; an image that resembles no other is a group of its own. Every group
has a number in [0, 1), the hash of the seed and of its smallest id.

- Images that the dataset itself puts in val or test stay there.
- Other images of the dataset: within each class the groups are ranked by number. The first go to test, unless the
  dataset has a test set, the next to val, unless it has validation images of the class, and the rest to train. So no
  split is empty, and the fractions of each class are met within one image, as far as the sizes of the groups allow.
- Incoming images: only the number decides; beside an official test set, test becomes recent. If this leaves a class
  without an image in a split, one of its incoming groups is put there.

What may move, with the same params:

- When incoming images are added or removed: no image of the dataset.
- When an image is added to the dataset or removed: at most two others of its class, at the limits between the splits,
  and their near-duplicates. With the first image of an official test set: everything.
- An incoming image that resembles another one, when that one is added or removed: the group follows its smallest id, or
  the images of the dataset that it resembles, or is dropped. Also one of a class of which the numbers leave a split
  empty, until they no longer do. All other incoming images keep their split.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from darkroom.data.arrays.dataset import SPLIT_CODES
from darkroom.data.preparation.near_duplicates import joined, near_duplicate_components
from darkroom.data.preparation.quotas import fill_empty, group_numbers, in_rank_order, quotas

_OF_TEST = "near-duplicate of a test image"
_OF_VAL = "near-duplicate of a validation image"
_REPEATED = "near-duplicate"
_OF_TWO_SPLITS = "near-duplicate of images in two splits, or in one group with them"
_TRAIN, _VAL, _TEST, _RECENT, _UNUSED = (SPLIT_CODES[name] for name in ("train", "val", "test", "recent", "unused"))


class Fractions(NamedTuple):
    """The shares of the splits that are not train, each in (0, 1).

    Attributes:
        val: of the images outside an official test set.
        test: the same; not used with an official test set.
        recent: of the incoming images; used only with an official test set.
    """

    val: float
    test: float
    recent: float


class Assignment(NamedTuple):
    """The split of every row, and the near-duplicates that were dropped or grouped.

    Attributes:
        splits: int8 (n,), codes of dataset.SPLIT_CODES.
        groups: int64 (n,), the row whose id decides the split of each row; its own number if it resembles no other.
        dropped: (row that became unused, row that it repeats, reason), in the order of the rows.
        near: int64 (n,), the first row of each row's component of near-duplicates; its own number if it resembles no
            other, or near-duplicates are kept.
    """

    splits: np.ndarray
    groups: np.ndarray
    dropped: list[tuple[int, int, str]]
    near: np.ndarray


class Images(NamedTuple):
    """The inputs of the split, one entry per image.

    Attributes:
        ids: uint8 (n, 32), unique.
        labels: int (n,).
        official: int8 (n,), the split that the dataset itself gives, test or val, else train.
        incoming: bool (n,), whether from data/incoming.
        hashes: uint64 (n,), perceptual hashes; not used if near-duplicates are kept.
        groups: int (n,): images with the same number stay together, such as those of one patient; -1: no group.
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

    - "keep" does not search for near-duplicates; "group" puts them in one split; "drop" does that and then keeps only
      the first image of each label.
    - Near-duplicates of official test images are dropped from train and val, those of official validation images from
      train.
    - Groups are first made without the incoming images, so these never move an image of the dataset. An incoming image
      joins the group that it resembles or is given to; if these are groups in two splits, it is dropped.

    Args:
        near_duplicates: "keep", "drop" or "group".
        near_duplicate_bits: maximum Hamming distance of near-duplicates, of 64. Above 8 the search compares too many
            pairs, and different images count as copies.
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
    """An unfinished split: first of the dataset, then of the incoming images.

    Args:
        near: returns the component of near-duplicates of each of these rows (m,): (m,).
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
        self._numbers = group_numbers(images.ids, seed=seed)
        self.groups = np.arange(len(images.ids))
        self.near = near(self.groups)
        self.sides = np.full(len(images.ids), _TRAIN, np.int8)
        self.dropped: list[tuple[int, int, str]] = []

    def group_dataset(self) -> None:
        """Group the rows of the dataset that resemble each other or have the same given group."""
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
        """Choose the splits of the dataset's groups."""
        for side in (_VAL, _TEST):
            self.sides[self.groups[self._kept(self._official == side)]] = side
        with_val = set(self._labels[self._kept(self._official == _VAL)].tolist())
        for code, keys, sizes in self._classes(~self._incoming & (self._official == _TRAIN)):
            shares = {} if self._is_tested else {_TEST: fractions.test}
            shares |= {} if code in with_val else {_VAL: fractions.val}
            found = in_rank_order(sizes, quotas(int(sizes.sum()), shares))
            fill_empty(found, sizes, needed=[*shares, _TRAIN])
            self.sides[keys] = found

    def group_incoming(self) -> None:
        """Add incoming rows to the group that they resemble or are given to, or make new groups of them."""
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
        """Choose the splits of the groups that have only incoming images."""
        held = {_RECENT: fractions.recent} if self._is_tested else {_TEST: fractions.test}
        shares = {**held, _VAL: fractions.val}
        limits, outcomes = np.cumsum([*shares.values()]), np.array([*shares, _TRAIN], np.int8)
        ranked = {code: keys for code, keys, _ in self._classes(~self._incoming & (self._official != _TEST))}
        known = set(self._labels[self._kept(~self._incoming)].tolist())
        for code, keys, sizes in self._classes(self._incoming[self.groups]):
            found = outcomes[np.searchsorted(limits, self._numbers[keys], side="right")]
            tested = self._is_tested and code in known
            needed = [split for split in outcomes.tolist() if not (tested and split == _RECENT)]
            fill_empty(found, sizes, needed=needed, others=self.sides[ranked[code]] if code in ranked else ())
            self.sides[keys] = found

    def assignment(self) -> Assignment:
        """Return the finished split."""
        splits = self.sides[self.groups]
        splits[self._official != _TRAIN] = self._official[self._official != _TRAIN]
        splits[[row for row, _, _ in self.dropped]] = _UNUSED
        return Assignment(splits, self.groups, sorted(self.dropped), self.near)

    def _together(self, rows: np.ndarray, components: np.ndarray) -> list[np.ndarray]:
        """Return the groups among rows, by component or as given, without rows dropped because of held-out images.

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
        """Return the official test rows, or else val rows, and why others are dropped; None if there are none."""
        for side, reason in ((_TEST, _OF_TEST), (_VAL, _OF_VAL)):
            if len(found := rows[self._official[rows] == side]) > 0:
                return found, reason
        return None

    def _leave(self, rows: np.ndarray, of: np.intp, reason: str) -> None:
        self.dropped += [(row, int(of), reason) for row in rows.tolist()]

    def _kept(self, asked: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows in the mask (bool (n,)) that are not dropped."""
        kept = asked.copy()
        kept[[row for row, _, _ in self.dropped]] = False
        return np.flatnonzero(kept)

    def _classes(self, asked: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the label of each class with its groups: their keys, in the order of their numbers, and their sizes.

        A group of several classes belongs to the rarest of them.
        """
        rows = self._kept(asked)
        rarity = np.bincount(self._labels[rows])[self._labels[rows]]
        rows = rows[np.lexsort((self._numbers[rows], rarity))]
        keys, first, sizes = np.unique(self.groups[rows], return_index=True, return_counts=True)
        labels = self._labels[rows[first]]
        for own in _parts(np.arange(len(keys)), labels):
            ranked = own[np.argsort(self._numbers[keys[own]], kind="stable")]
            yield int(labels[own[0]]), keys[ranked], sizes[ranked]


def _several(components: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of every component that has more than one."""
    _, inverse, counts = np.unique(components, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[inverse] > 1)
    yield from _parts(rows, components)


def _parts(rows: np.ndarray, components: np.ndarray) -> list[np.ndarray]:
    """Return rows divided by component, each part in ascending order."""
    if len(rows) == 0:
        return []
    ordered = rows[np.argsort(components[rows], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(components[ordered])) + 1)


def _smallest(ids: np.ndarray, rows: np.ndarray) -> int:
    return int(min(rows, key=lambda row: ids[row].tobytes()))


def _repeats(
    rows: np.ndarray, *, labels: np.ndarray, candidates: np.ndarray | None = None
) -> list[tuple[int, int, str]]:
    """Return the candidates (None: the rows) that have the label of an earlier one of rows."""
    first: dict[int, int] = {}
    found = []
    among = set((rows if candidates is None else candidates).tolist())
    for row in rows.tolist():
        kept = first.setdefault(int(labels[row]), row)
        if kept != row and row in among:
            found.append((row, kept, _REPEATED))
    return found
