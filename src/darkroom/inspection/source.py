"""Open a directory, an archive or a label table as `download` will, and find its layout."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from darkroom.data.raw.labels import placed_in
from darkroom.data.raw.listing import Listing, listing_of_archive, listing_of_files, walk
from darkroom.data.raw.names import BESIDE_IMAGES, UNLABELLED, is_document, is_litter, split_of, words
from darkroom.data.raw.placement import Placed, check_classes
from darkroom.data.raw.tables import SUFFIXES
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.project.text import escaped, shown

MOST_TABLES = 20  # with more tables, each describes a single image
DEEPEST_TABLE = 2  # maximum number of directories above a table
LARGEST_TABLE = 64 << 20  # bytes; larger tables are not tried unless the user names them
FROM_NAMES = 0.8  # minimum share of files whose names begin like others, so that the beginning may be a class

_ANSWERS = re.compile(r"submission|prediction", re.IGNORECASE)  # files of a contest, with placeholder labels
_CLASS_AND_NUMBER = re.compile(r"([^\W\d].*?)[_ .-]*\d+\.\w+")


class Source(NamedTuple):
    """A user's dataset and how it is read.

    Attributes:
        listing: its files.
        layout: for download.dataset.
        placed: its images, with class and split, numbered by position in the listing.
        notes: sentences about how the layout was chosen.
    """

    listing: Listing
    layout: dict[str, Any]
    placed: list[Placed]
    notes: list[str]


@contextmanager
def opened(path: Path, *, layout: Mapping[str, Any] | None, max_archive_bytes: int) -> Iterator[Source]:
    """Yield the dataset at a path.

    Args:
        path: a directory, zip or tar, or a label table whose paths are relative to its directory.
        layout: keys of a layout from the user; None: detected.
        max_archive_bytes: see open_archive.

    Raises:
        DataError: the path does not exist, or no layout fits.
    """
    if not path.exists():
        raise DataError(f"no such file or directory: {escaped(str(path))}")
    if path.is_file() and path.suffix.casefold() in SUFFIXES:
        layout = {"kind": "table", "table": path.name, **(layout or {})}
        path = path.absolute().parent
    if path.is_dir():
        yield _source(listing_of_files(path, list(walk(path))), layout, max_archive_bytes)
        return
    with open_archive(path, max_archive_bytes=max_archive_bytes) as archive:
        yield _source(listing_of_archive(archive), layout, max_archive_bytes)


def _source(listing: Listing, layout: Mapping[str, Any] | None, max_archive_bytes: int) -> Source:
    read = partial(_read, listing, max_archive_bytes)
    return _found_out(listing, read) if layout is None else read(layout)


def _read(listing: Listing, max_archive_bytes: int, layout: Mapping[str, Any]) -> Source:
    whole = {"kind": "table" if "table" in layout else "folders", **layout}
    placed = placed_in(listing, whole, max_archive_bytes=max_archive_bytes)
    check_classes(placed, where=listing.where)
    return Source(listing, whole, placed, [])


def _found_out(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> Source:
    """Return the dataset with the first layout that fits: a table, unless the directories say as much.

    Raises:
        DataError: no layout fits.
    """
    tables, why_not = _tables(listing, read)
    try:
        by_folders = read({"kind": "folders"})
    except DataError as error:
        if tables:
            return _largest(tables)
        if rest := _without_unlabelled(listing, read):
            return rest
        how = "; give keys of the layout with --layout, such as --layout 'level: 2'" if "layout" in str(error) else ""
        raise DataError("; ".join([f"{error}{how}", *_class_in_name(listing), *why_not])) from None
    return _better(by_folders, _largest(tables)) if tables else by_folders


def _better(by_folders: Source, table: Source) -> Source:
    """Return the more informative layout, directories or a table, with a note about the other.

    A table that names all images of the directories describes them; one that names only some does not.
    """
    name = shown(table.layout["table"])
    labels = {image.name: image.label for image in table.placed}
    described = {posixpath.dirname(image) for image in labels}
    missing = [image for image in by_folders.placed if image.name not in labels]
    if all(labels.get(image.name, image.label) == image.label for image in by_folders.placed):
        note = f"the directories are the classes; {name} says nothing else and is not used"
    elif any(posixpath.dirname(image.name) in described for image in missing):
        n = len(by_folders.placed)
        note = f"{name} is not used, because it names only {n - len(missing)} of {n} images; pass its path to use it"
    else:
        return table._replace(notes=[f"{name} says the classes, not the directories"])
    return by_folders._replace(notes=[note])


def _tables(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> tuple[list[Source], list[str]]:
    """Return the dataset by each of its label tables that fits, and the reasons why others do not fit."""
    names = [
        name
        for number, (name, is_dir) in enumerate(listing.names)
        if not is_dir
        and PurePosixPath(name).suffix.casefold() in SUFFIXES
        and not _ANSWERS.search(name)
        and name.count("/") <= DEEPEST_TABLE
        and listing.n_bytes(number) <= LARGEST_TABLE
    ]
    found, why_not = [], []
    for name in names if len(names) <= MOST_TABLES else ():
        try:
            found.append(read({"table": name}))
        except DataError as error:
            why_not.append(str(error).removeprefix(f"{listing.where}: "))
    return found, why_not


def _largest(tables: list[Source]) -> Source:
    """Return the table that names the most images.

    Raises:
        DataError: another table names images that it lacks.
    """
    largest = max(tables, key=lambda table: len(table.placed))
    names = {image.name for image in largest.placed}
    for table in tables:
        if any(image.name not in names for image in table.placed):
            both = " and ".join(shown(one.layout["table"]) for one in (largest, table))
            raise DataError(
                f"{largest.listing.where}: {both} name different images; put the rows into one table, with a column "
                "split, or give the path of the one to use"
            )
    return largest


def _without_unlabelled(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> Source | None:
    """Return the dataset without directories of unlabelled images and of masks, None if it still does not fit."""
    directories = {str(above) for name in _files(listing) for above in PurePosixPath(name).parents} - {"."}
    holding = {posixpath.dirname(name) for name in directories if not _is_wrapped(name)}
    of_images = {posixpath.dirname(name) for name in _files(listing) if not is_document(name)}
    labelled = {posixpath.basename(name) for name in holding} | _parts_of_classes(directories, of_images)
    skip = sorted({name for name in map(posixpath.basename, directories) if _holds_no_class(name, labelled)})
    for left_out in [*([name] for name in skip), *([skip] if len(skip) > 1 else [])]:
        with suppress(DataError):
            found = read({"skip": left_out})
            if all(split_of(image.label)[0] for image in found.placed):  # 1_train beside 1_test
                continue
            return found._replace(notes=[f"{' and '.join(map(shown, left_out))} left out: no images of classes"])
    return None


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


def _class_in_name(listing: Listing) -> list[str]:
    """Return advice if the names of files begin with their classes, as in cat.1.jpg and Siamese_12.jpg."""
    first: dict[str, str] = {}
    names = list(_files(listing))
    starts: Counter[str] = Counter()
    for name in names:
        if match := _CLASS_AND_NUMBER.fullmatch(posixpath.basename(name)):
            starts[match[1]] += 1
            first.setdefault(match[1], name)
    if len(starts) < 2 or sum(n for n in starts.values() if n > 1) < FROM_NAMES * len(names):
        return []
    example = min(first)
    return [
        f"file names seem to begin with the class: write a table labels.csv beside them, with the columns path and "
        f"label and a row for each image, such as '{posixpath.basename(first[example])},{example}'"
    ]


def _files(listing: Listing) -> Iterator[str]:
    return (name for name, is_dir in listing.names if not is_dir and not any(map(is_litter, name.split("/"))))
