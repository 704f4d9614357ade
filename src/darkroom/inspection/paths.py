"""Guesses from the paths of files: unlabelled images, classes in file names, other possible layouts."""

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Sequence, Set
from pathlib import PurePosixPath

from darkroom.data.raw.names import BESIDE_IMAGES, UNLABELLED, is_document, split_of, words
from darkroom.data.raw.placement import Placed

FROM_NAMES = 0.8  # minimum share of files whose names begin like others, so that the beginning may be a class
_CLASS_AND_NUMBER = re.compile(r"([^\W\d].*?)[_ .-]*\d+\.\w+")


def directories_without_classes(files: Collection[str]) -> list[str]:
    """Return the names of directories that seem to hold unlabelled images or masks."""
    directories = {str(above) for name in files for above in PurePosixPath(name).parents} - {"."}
    holding = {posixpath.dirname(name) for name in directories if not _is_wrapped(name)}
    of_images = {posixpath.dirname(name) for name in files if not is_document(name)}
    labelled = {posixpath.basename(name) for name in holding} | _parts_of_classes(directories, of_images)
    return sorted({name for name in map(posixpath.basename, directories) if _holds_no_class(name, labelled)})


def _is_wrapped(directory: str) -> bool:
    """Return whether a directory is the inner one of `test/test`."""
    above, name = posixpath.split(directory)
    return posixpath.basename(above) == name


def _parts_of_classes(directories: Set[str], of_images: Set[str]) -> set[str]:
    """Return the names of directories that lie beside images of a class, beside its `train`, or in several classes.

    Args:
        of_images: directories that images lie in.
    """
    above = {name: posixpath.dirname(name) for name in directories if not _is_wrapped(name)}
    times = Counter(map(posixpath.basename, above))
    of_train = {
        holder
        for name, holder in above.items()
        if name in of_images and split_of(posixpath.basename(name)) == ("train", True)
    }
    return {
        posixpath.basename(name)
        for name, holder in above.items()
        if holder in of_images | of_train or times[posixpath.basename(name)] > 1
    }


def _holds_no_class(name: str, labelled: Set[str]) -> bool:
    """Return whether a directory is one of unlabelled images or of masks by its name.

    Args:
        labelled: the names of directories that hold directories, or lie in a class.
    """
    said, (split, is_sure) = words(name), split_of(name)
    maybe_class = {"mask", "label"}.intersection(said)
    of_other_pictures = bool(said) and not maybe_class and all(map(BESIDE_IMAGES.fullmatch, said))
    is_test = is_sure and split != "train" and name not in labelled
    return any(map(UNLABELLED.fullmatch, said)) or of_other_pictures or is_test


def directories_in_classes(placed: Sequence[Placed]) -> str | None:
    """Return one of the directories inside classes if all images lie in such directories, else None."""
    inside: dict[str, set[str]] = {}
    for image in placed:
        above = image.name.split("/")[:-1]
        place = above.index(image.label) + 1
        if place == len(above):
            return None
        inside.setdefault(image.label, set()).add("/".join(above[: place + 1]))
    found = {name for names in inside.values() for name in names}
    if len(found) == len(inside) or all(split_of(posixpath.basename(name))[1] for name in found):
        return None
    return min(found)


def lists_of_splits(files: Collection[str]) -> list[str]:
    """Return the text files that seem to list the images of a split other than train, such as meta/test.txt."""
    said = {name: split_of(PurePosixPath(name).stem) for name in files if name.casefold().endswith(".txt")}
    return sorted(name for name, (split, sure) in said.items() if sure and split != "train")


def class_in_name(files: Collection[str]) -> list[str]:
    """Return advice if the names of files begin with their classes, as in cat.1.jpg and Siamese_12.jpg."""
    first: dict[str, str] = {}
    starts: Counter[str] = Counter()
    for name in files:
        if match := _CLASS_AND_NUMBER.fullmatch(posixpath.basename(name)):
            starts[match[1]] += 1
            first.setdefault(match[1], name)
    if len(starts) < 2 or sum(n for n in starts.values() if n > 1) < FROM_NAMES * len(files):
        return []
    example = min(first)
    return [
        f"file names seem to begin with the class: write a table labels.csv beside them, with the columns path and "
        f"label and a row for each image, such as '{posixpath.basename(first[example])},{example}'"
    ]
