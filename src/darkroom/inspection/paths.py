"""Guesses from the paths of files: unlabelled images, classes in file names, other possible layouts."""

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Sequence, Set
from contextlib import suppress
from pathlib import PurePosixPath

from darkroom.data.raw.listing import Listing
from darkroom.data.raw.names import BESIDE_IMAGES, UNLABELLED, split_of, words
from darkroom.data.raw.placement import Placed
from darkroom.project.text import escaped

FROM_NAMES = 0.8  # minimum share of files whose names begin like others, so that the beginning may be a class
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_COPIES = {".thumbnails", ".thumbs", ".ipynb_checkpoints", ".AppleDouble"}  # hidden directories of no class
_LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
_LIST_WORDS = {"list", "lists", "ids", "names", "files", "images", "eval"}
_SPLIT_WORDS = {"split", "splits", "partition", "partitions"}
_CLASS_AND_NUMBER = re.compile(r"([^\W\d].*?)[_ .-]*\d+\.\w+")


def directories_without_classes(files: Collection[str]) -> list[str]:
    """Return the names of directories that seem to hold unlabelled images or masks."""
    directories = {str(above) for name in files for above in PurePosixPath(name).parents} - {"."}
    holding = {posixpath.dirname(name) for name in directories if not _is_wrapped(name)}
    labelled = {posixpath.basename(name) for name in holding}
    return sorted({name for name in map(posixpath.basename, directories) if _holds_no_class(name, labelled)})


def lie_in_classes(name: str, files: Collection[str], placed: Sequence[Placed]) -> bool:
    """Return whether directories of this name lie inside the class directories of images."""
    parts = [(image.name.split("/"), image.label) for image in placed]
    classes = {"/".join(above[: above.index(label) + 1]) for above, label in parts}
    return any(
        not classes.isdisjoint(map(str, directory.parents))
        for directory in {above for file in files for above in PurePosixPath(file).parents}
        if directory.name == name
    )


def _is_wrapped(directory: str) -> bool:
    """Return whether a directory is the inner one of `test/test`."""
    above, name = posixpath.split(directory)
    return posixpath.basename(above) == name


def _holds_no_class(name: str, labelled: Set[str]) -> bool:
    """Return whether a directory is one of unlabelled images or of masks by its name.

    Args:
        labelled: the names of directories that contain directories.
    """
    said, (split, is_sure) = words(name), split_of(name)
    maybe_class = {"mask", "label"}.intersection(said)
    of_other_pictures = bool(said) and not maybe_class and all(map(BESIDE_IMAGES.fullmatch, said))
    is_test = is_sure and split != "train" and name not in labelled
    return any(map(UNLABELLED.fullmatch, said)) or of_other_pictures or is_test


def directories_in_classes(placed: Sequence[Placed]) -> str | None:
    """Return one of the directories inside classes if all images are in such directories, else None."""
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


def hidden_classes(listing: Listing, placed: Sequence[Placed]) -> list[str]:
    """Return the hidden directories with images beside those of classes."""
    found = {name for name, is_dir in listing.names if not is_dir}
    parts = [(image.label, image.name.split("/")) for image in placed]
    holders = {"/".join(names[: names.index(label)]) for label, names in parts}
    for holder in holders if listing.where.is_dir() else ():  # whose listing has no hidden files
        with suppress(OSError):
            above = listing.where / holder
            found |= {f"{holder}/{file.parent.name}/{file.name}".strip("/") for file in above.glob(".*/*.*")}
    pictures = {PurePosixPath(name) for name in found if PurePosixPath(name).suffix.casefold() in _PICTURES}
    hidden = {picture.parent for picture in pictures if picture.parent.name.startswith(".")}
    beside = [path for path in hidden if posixpath.dirname(str(path)) in holders and path.name not in _COPIES]
    return sorted(map(str, beside))


def lists_of_splits(files: Collection[str]) -> list[str]:
    """Return the files that seem to list images of a split, such as meta/test.txt and train_test_split.csv."""
    found = []
    for name in files:
        said = set(words(PurePosixPath(name).stem)) - _LIST_WORDS
        splits = {split_of(word)[0] for word in said - _SPLIT_WORDS}
        is_list = None not in splits and (splits - {"train"} or said & _SPLIT_WORDS)
        if is_list and name.casefold().endswith(_LIST_SUFFIXES):
            found.append(name)
    return sorted(found)


def other_classes(files: Collection[str]) -> list[str]:
    """Return advice if file names begin with classes (cat.1.jpg, Siamese_12.jpg) or files hold them (1.cls)."""
    if labels := [name for name in files if name.casefold().endswith(".cls")]:
        return [
            f"'{escaped(min(labels))}' seems to be the class of an image, as WebDataset writes it: write a table "
            "labels.csv with the columns path and label"
        ]
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
