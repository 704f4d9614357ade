"""Open a directory, an archive or a label table as `download` will, and find its layout."""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from darkroom.data.raw.exports import export_kind
from darkroom.data.raw.labels import placed_in, table_names
from darkroom.data.raw.listing import Listing, listing_of_archive, listing_of_files, unreadable, walk
from darkroom.data.raw.names import is_a_split, is_document, is_litter, split_of
from darkroom.data.raw.placement import Placed, check_classes
from darkroom.data.raw.shards import holds_images, is_shard, listing_of_rows
from darkroom.data.raw.tables import SUFFIXES
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.inspection.groups import is_group_column
from darkroom.inspection.paths import (
    class_in_name,
    directories_in_classes,
    directories_without_classes,
    lists_of_splits,
)
from darkroom.project.text import escaped, shown

MOST_TABLES = 20  # with more tables, each describes a single image
DEEPEST_TABLE = 2  # maximum number of directories above a table
LARGEST_TABLE = 64 << 20  # bytes; larger tables are not tried unless the user names them
_EXPORT = ".json"  # suffix of COCO and Label Studio
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_ANSWERS = re.compile(r"submission|prediction", re.IGNORECASE)  # files of a contest, with placeholder labels


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
    if not path.is_dir() and (reason := unreadable(path)):
        raise DataError(f"cannot read {escaped(str(path))}: {reason}")
    suffix = path.suffix.casefold()
    if suffix in _SPREADSHEETS:
        raise DataError(f"{path} is a spreadsheet; save it as CSV and give that")
    one = listing_of_files(path, [(path.name, path, False)])
    if suffix in SUFFIXES and holds_images(one, 0):
        yield _source(one, layout, max_archive_bytes)
        return
    if suffix in (*SUFFIXES, _EXPORT):
        layout = {**_layout_of(one, 0), **(layout or {})}
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
    if whole["kind"] == "parquet":
        listing = listing_of_rows(listing, whole, placed)
    return Source(listing, whole, placed, [])


def _layout_of(listing: Listing, number: int) -> dict[str, Any]:
    """Return the layout of a label table.

    Raises:
        DataError: it is JSON of an unknown kind.
    """
    name, _ = listing.names[number]
    kind: str | None = "table"
    if PurePosixPath(name).suffix.casefold() == _EXPORT:
        kind = export_kind(listing.read(number))
    if kind is None:
        raise DataError(
            f"{listing.where}: {name} is neither COCO nor an export of Label Studio; save it as CSV or JSON Lines with "
            "the columns path and label"
        )
    return {"kind": kind, "table": name}


def _found_out(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> Source:
    """Return the dataset with the first layout that fits: a table, unless the directories say as much.

    Raises:
        DataError: no layout fits.
    """
    if any(not is_dir and is_shard(name) and holds_images(listing, n) for n, (name, is_dir) in _looked_at(listing)):
        return read({"kind": "parquet"})
    tables, why_not = _tables(listing, read)
    try:
        by_folders = read({"kind": "folders"})
    except DataError as error:
        if tables:
            return _with_notes(_largest(tables, read))
        if rest := _without_unlabelled(listing, read):
            return rest
        how = "; give keys of the layout with --layout, such as --layout 'level: 2'" if "layout" in str(error) else ""
        raise DataError("; ".join([f"{error}{how}", *class_in_name(_files(listing)), *why_not])) from None
    return _with_notes(_better(by_folders, _largest(tables, read)) if tables else by_folders)


def _better(by_folders: Source, table: Source) -> Source:
    """Return the more informative layout, directories or a table, with a note about the other.

    A table that names all images of the directories describes them; one that names only some does not.
    """
    name, n = _tables_of(table), len(by_folders.placed)
    rows = {image.name: image for image in table.placed}
    described = {posixpath.dirname(image) for image in rows}
    missing = [image for image in by_folders.placed if image.name not in rows]
    more = _says_more(by_folders, rows)
    only = f"{name} is not used, because it names only {n - len(missing)} of {n} images; pass its path to use it"
    if all(rows.get(image.name, image).label == image.label for image in by_folders.placed):
        if more and not missing:
            return table._replace(notes=[f"{name} says what the directories do, and {more}"])
        note = only if more else f"the directories are the classes; {name} says nothing else and is not used"
    elif any(posixpath.dirname(image.name) in described for image in missing):
        note = only
    else:
        return table._replace(notes=[f"{name} says the classes, not the directories"])
    return by_folders._replace(notes=[note])


def _says_more(by_folders: Source, rows: Mapping[str, Placed]) -> str:
    """Return what a table adds to the directories: the splits, groups such as patients, or nothing."""
    found = [(image, rows[image.name]) for image in by_folders.placed if image.name in rows]
    if any(row.split and row.split != image.split for image, row in found):
        return "the splits"
    columns = {column for _, row in found for column in row.attributes if is_group_column(column)}
    return f"the groups, by {shown(min(columns))}" if columns else ""


def _with_notes(source: Source) -> Source:
    """Return a dataset with notes about files that are left out and about other possible layouts."""
    files = [name for name in _files(source.listing) if not is_document(name)]
    notes = list(source.notes)
    if source.layout["kind"] != "folders":
        placed = {source.listing.names[image.number][0] for image in source.placed}
        if left := sorted(set(files) - placed):
            n = "1 file is" if len(left) == 1 else f"{len(left)} files are"
            notes.append(f"{n} named in no row and left out, such as {shown(left[0])}")
    elif inner := directories_in_classes(source.placed):
        notes.append(
            f"directories inside the classes, such as {shown(inner)}, belong to them; if these are the classes, use "
            f"--layout 'level: {inner.count('/') + 1}'"
        )
    if not any(image.split for image in source.placed) and (lists := lists_of_splits(_files(source.listing))):
        notes.append(f"{shown(lists[0])} may list a split, which is not read; a label table with a column split is")
    return source._replace(notes=notes)


def _tables(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> tuple[list[Source], list[str]]:
    """Return the dataset by each of its label tables that fits, and the reasons why others do not fit."""
    found, why_not = [], []
    for suffixes in (SUFFIXES, (_EXPORT,), _SPREADSHEETS):
        numbers = [
            number
            for number, (name, is_dir) in _looked_at(listing)
            if not is_dir
            and PurePosixPath(name).suffix.casefold() in suffixes
            and not _ANSWERS.search(name)
            and name.count("/") <= DEEPEST_TABLE
            and not listing.unread(number)
            and listing.n_bytes(number) <= LARGEST_TABLE
        ]
        for number in numbers if len(numbers) <= MOST_TABLES else ():
            try:
                if suffixes == _SPREADSHEETS:
                    raise DataError(f"{listing.names[number][0]} is a spreadsheet; save it as CSV")
                found.append(read(_layout_of(listing, number)))
            except DataError as error:
                why_not.append(str(error).removeprefix(f"{listing.where}: "))
    return found, why_not


def _largest(tables: list[Source], read: Callable[[Mapping[str, Any]], Source]) -> Source:
    """Return the table with the most images, or several tables as one dataset if their names are those of splits.

    Raises:
        DataError: another table names images that it lacks, or an image is in two splits.
    """
    largest = max(tables, key=lambda table: len(table.placed))
    said = {
        table.layout["table"]: split
        for table in tables
        for part in table.layout["table"].split("/")
        if (split := split_of(part)[0])
    }
    if is_a_split(said.values()) and not any(image.split for image in largest.placed):
        kind = next(table.layout["kind"] for table in tables if table.layout["table"] in said)
        largest = read({"kind": kind, "table": sorted(said)})
    names = {image.name for image in largest.placed}
    for table in tables:
        if any(image.name not in names for image in table.placed):
            raise DataError(
                f"{largest.listing.where}: {_tables_of(largest)} and {_tables_of(table)} name different images; put "
                "the rows into one table, with a column split, or give the path of the one to use"
            )
    return largest


def _tables_of(source: Source) -> str:
    return " and ".join(map(shown, table_names(source.layout)))


def _without_unlabelled(listing: Listing, read: Callable[[Mapping[str, Any]], Source]) -> Source | None:
    """Return the dataset without directories of unlabelled images and of masks, None if it still does not fit."""
    skip = directories_without_classes(_files(listing))
    for left_out in [*([name] for name in skip), *([skip] if len(skip) > 1 else [])]:
        with suppress(DataError):
            found = read({"skip": left_out})
            if all(split_of(image.label)[0] for image in found.placed):  # 1_train beside 1_test
                continue
            return found._replace(notes=[f"{' and '.join(map(shown, left_out))} left out: no images of classes"])
    return None


def _files(listing: Listing) -> list[str]:
    return [name for _, (name, is_dir) in _looked_at(listing) if not is_dir]


def _looked_at(listing: Listing) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Yield the entries of a listing that are not litter, with their numbers."""
    return ((n, entry) for n, entry in enumerate(listing.names) if not any(map(is_litter, entry[0].split("/"))))
