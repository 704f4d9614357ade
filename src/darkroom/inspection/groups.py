"""Regularities in file names or table columns that look like patients, videos, lots or bursts."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from darkroom.data.raw.names import split_of

DEEPEST = 5  # maximum number of directories, and of words of a file's name, to examine
LEAST_COVERED = 0.9  # minimum share of images with a group
LEAST_GROUPS = 3  # minimum per class: one for each split
LEAST_SIZE = 2.0  # minimum mean number of images per group
LEAST_SHARED = 0.8  # minimum share of images in a group of several

_KINDS = (
    "patient|pat|subject|subj|person|participant|case|lesion|study|exam|video|vid|clip|movie|sequence|seq|scene|burst|"
    "lot|batch|session|series|group|specimen|plant|animal|site"
)
_COLUMN = re.compile(rf"(?:{_KINDS})s?[ _-]?(?:id|no|nr|number|name)?", re.IGNORECASE)
_KIND = re.compile(rf"(?:{_KINDS})", re.IGNORECASE)
_PART = re.compile(r"(?:frame|frm|slice|view|shot|page|burst|crop)", re.IGNORECASE)  # then a number within a group
_SEPARATOR, _WORD = "[_ .-]+", "[^/_ .-]+"


class Proposal(NamedTuple):
    """A value for preprocess.group_by.

    Attributes:
        group_by: the name of a column, or a regular expression with one group.
        is_certain: whether a name such as "patient" or "frame" confirms it.
        n_groups: number of different values.
        example: one of them.
    """

    group_by: str
    is_certain: bool
    n_groups: int
    example: str


def propose(names: Sequence[str], labels: Sequence[str], attributes: Sequence[Mapping[str, str]]) -> Proposal | None:
    """Return the most plausible grouping of the images, None if there is none.

    Args:
        names: paths of the images in the dataset.
        labels: their classes.
        attributes: the other columns of a label table for each image.
    """
    columns = [column for column in (attributes[0] if attributes else ()) if is_group_column(column)]
    for column in columns:
        if fits := _fits([row.get(column, "") for row in attributes], labels):
            return Proposal(column, True, *fits)
    found = []
    for pattern in _patterns(names, labels):
        values = [match[1] if (match := re.search(pattern, name)) else "" for name in names]
        if fits := _fits(values, labels):
            complete = all(values)
            found.append(Proposal(pattern, complete and _says_so(pattern, names), *fits))
    return max(found, key=lambda proposal: proposal.is_certain, default=None)  # the first of them


def is_group_column(name: str) -> bool:
    """Return whether the column of a table is called after patients, videos, lots or the like.

    >>> is_group_column("patient_id"), is_group_column("age")
    (True, False)
    """
    return _COLUMN.fullmatch(name) is not None


def _fits(values: Sequence[str], labels: Sequence[str]) -> tuple[int, str] | None:
    """Return number and example of the groups if each class has several and most images share one, else None."""
    sizes = Counter(value for value in values if value)
    n_covered = sum(sizes.values())
    if n_covered < max(LEAST_COVERED * len(values), LEAST_SIZE * len(sizes), 1):
        return None
    if sum(size for size in sizes.values() if size > 1) < LEAST_SHARED * n_covered:
        return None
    if all(split_of(value)[1] for value in sizes):
        return None
    of_class: dict[str, set[str]] = defaultdict(set)
    for value, label in zip(values, labels, strict=True):
        if value:
            of_class[label].add(value)
    if any(len(of_class[label]) < LEAST_GROUPS for label in set(labels)):
        return None
    return len(sizes), min(sizes)


def _patterns(names: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    """Yield expressions for each directory above the images, from the top, and for each word of their names."""
    for depth in range(min(DEEPEST, max(name.count("/") for name in names))):
        yield rf"^(?:[^/]+/){{{depth}}}([^/]+)/"
    stems = [re.split(_SEPARATOR, posixpath.splitext(posixpath.basename(name))[0]) for name in names]
    for number in range(min(DEEPEST, max(len(stem) for stem in stems) - 1)):
        words = [stem[number] for stem in stems if len(stem) > number + 1]
        before = defaultdict(set)
        for stem, label in zip(stems, labels, strict=True):
            before[label].add(tuple(stem[:number]))
        skipped = rf"(?:{_WORD}{_SEPARATOR}){{{number}}}" if number else ""
        if all(len(starts) == 1 for starts in before.values()):  # for example the class name
            yield rf"(?:^|/){skipped}({_shape(words)}){_SEPARATOR}[^/]*$"
        else:
            yield rf"(?:^|/)({skipped}{_shape(words)}){_SEPARATOR}[^/]*$"


def _shape(words: Sequence[str]) -> str:
    """Return an expression for words: p[0-9]+ for p01 and p22."""
    starts = Counter(word.rstrip("0123456789") for word in words if word[-1:].isdigit())
    for start, n in starts.most_common(1):
        if n >= LEAST_COVERED * len(words):
            return f"{re.escape(start)}[0-9]+"
    return _WORD


def _says_so(pattern: str, names: Sequence[str]) -> bool:
    """Return whether the words in or beside the group of every path say patient, video and so on."""
    return all(
        _words(match[1], _KIND)
        or _words(name[: match.start(1)].rpartition("/")[2], _KIND)
        or _words(name[match.end(1) :], _PART)
        for name in names
        if (match := re.search(pattern, name))
    )


def _words(text: str, kind: re.Pattern[str]) -> bool:
    return any(kind.fullmatch(word) for word in re.split(r"[^A-Za-z]+", text))
