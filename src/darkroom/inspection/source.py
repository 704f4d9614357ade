"""Open a directory, an archive or a label table as `download` will, and find its layout."""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from darkroom.data.raw.exports import export_kind
from darkroom.data.raw.labels import TABLES, placed_in, table_names, tables_in
from darkroom.data.raw.listing import Listing, listing_of_archive, listing_of_files, unreadable, walk
from darkroom.data.raw.names import is_a_split, is_document, is_litter, split_in_path, split_of
from darkroom.data.raw.placement import Placed, check_classes
from darkroom.data.raw.shards import holds_images, is_shard, listing_of_rows
from darkroom.data.raw.tables import SUFFIXES, BesideSplitsError, Table, place_by_tables
from darkroom.errors import DataError
from darkroom.files.archives import open_archive
from darkroom.inspection.groups import is_group_column, is_group_name
from darkroom.inspection.paths import (
    directories_in_classes,
    directories_without_classes,
    hidden_classes,
    lie_in_classes,
    lists_of_splits,
    other_classes,
)
from darkroom.project.text import escaped, shown

MOST_TABLES = 20  # with more tables, each describes a single image
DEEPEST_TABLE = 2  # maximum number of directories above a table
LARGEST_TABLE = 64 << 20  # bytes; larger tables are not tried unless the user names them
_EXPORT = ".json"  # suffix of COCO and Label Studio
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_MEASURED, _MANY = re.compile(r"[+-]?\d+\.\d+(e[+-]?\d+)?", re.IGNORECASE), 10  # classes that are numbers
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
    suffix = path.suffix.casefold() if path.is_file() else ""
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
    if whole["kind"] in TABLES:
        return _by_tables(listing, whole, tables_in(listing, whole))
    placed = placed_in(listing, whole, max_archive_bytes=max_archive_bytes)
    check_classes(placed, where=listing.where)
    if whole["kind"] == "parquet":
        listing = listing_of_rows(listing, whole, placed)
    return Source(listing, whole, placed, [])


def _by_tables(listing: Listing, layout: dict[str, Any], tables: Sequence[Table]) -> Source:
    placed = place_by_tables(listing.names, tables, where=listing.where, root=layout.get("root"))
    check_classes(placed, where=listing.where)
    columns = dict.fromkeys(shown(table.split) for table in tables if table.split)
    said = any(image.split for image in placed) and " and ".join(columns)
    return Source(listing, layout, placed, [f"the splits are those of column {said}"] if said else [])


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
    shards = [
        n for n, (name, is_dir) in _looked_at(listing) if not is_dir and is_shard(name) and holds_images(listing, n)
    ]
    others = [name for name in _files(listing) if not is_document(name)]
    if shards and not others:
        return _by_shards(listing, read, shards)
    tables, refused, why_not = _tables(listing, without=shards)
    unused = [f"not used: {shown(name)}; {_reason(error, listing)}" for name, error in refused.items()]
    beside = next((error for error in refused.values() if isinstance(error, BesideSplitsError)), None)
    try:
        by_folders = read({"kind": "folders"})
    except DataError as error:
        if tables:
            largest = _largest(tables, read)
            return _with_notes(largest._replace(notes=[*largest.notes, *unused]))
        if shards:
            note = f"only the shards are used; {shown(min(others))} and other files are left out"
            try:
                found = _by_shards(listing, read, shards)
                return found._replace(notes=[note, *found.notes])
            except DataError as no_shards:
                why_not.append(_reason(no_shards, listing))
        if beside:
            raise beside from None
        if refused:  # without some of the directories, others may only seem to be classes
            reasons = [_reason(one, listing) for one in (*refused.values(), error)]
            raise DataError(f"{listing.where}: {'; '.join(reasons)}") from None
        if rest := _without_unlabelled(listing, read):
            return rest
        how = "; give keys of the layout with --layout, such as --layout 'level: 2'" if "layout" in str(error) else ""
        raise DataError("; ".join([f"{error}{how}", *other_classes(_files(listing)), *why_not])) from None
    if beside and not tables:
        raise beside
    try:
        found = _better(by_folders, _largest(tables, read)) if tables else by_folders
    except DataError as error:
        found = by_folders._replace(notes=[f"not used: the label tables; {_reason(error, listing)}"])
    found = _with_notes(found._replace(notes=[*found.notes, *unused]))
    more = [f"{shown(listing.names[n][0])} holds images, too, and is not used" for n in shards[:1]]
    return found._replace(notes=[*found.notes, *more])


def _reason(error: DataError, listing: Listing) -> str:
    return str(error).removeprefix(f"{listing.where}: ")


def _by_shards(listing: Listing, read: Callable[[Mapping[str, Any]], Source], shards: Sequence[int]) -> Source:
    """Return the dataset by its shards, without parquet files that hold no images."""
    names = {listing.names[number][0] for number in shards}
    without = {name for name in _files(listing) if is_shard(name)} - names
    skip = sorted({*map(posixpath.basename, without)} - {part for name in names for part in name.split("/")})
    if not skip:
        return read({"kind": "parquet"})
    found = read({"kind": "parquet", "skip": skip})
    return found._replace(notes=[f"{' and '.join(map(shown, skip))} left out: no images in it"])


def _better(by_folders: Source, table: Source) -> Source:
    """Return the more informative layout, directories or a table, with a note about the other.

    A table that names all images of the directories describes them; one that names only some does not. A table may put
    images of train into another split, but none that the directories hold out.
    """
    name, n = _tables_of(table), len(by_folders.placed)
    rows = {image.name: image for image in table.placed}
    described = {posixpath.dirname(image) for image in rows}
    missing = [image for image in by_folders.placed if image.name not in rows]
    more = _says_more(by_folders, rows)
    held_out = [image for image in by_folders.placed if image.split not in (None, "train")]
    contradicts = any(rows.get(image.name, image).split != image.split for image in held_out)
    only = f"not used: {name}, with only {n - len(missing)} of {n} images; give its path to use it"
    if all(rows.get(image.name, image).label == image.label for image in by_folders.placed):
        if more and not missing and not contradicts:
            note = f"used: {name}, with the classes of the directories and {more}"
            return table._replace(notes=[note, *table.notes])
        note = f"the directories are the classes; not used: {name}, which says nothing else"
        if more:
            note = only if missing else f"not used: {name}, which takes test or validation images of the directories"
    elif any(posixpath.dirname(image.name) in described for image in missing):
        note = only
    else:
        splits = " and the splits" if contradicts else ""
        note = f"the classes{splits} are those of {name}, not the directories"
        return table._replace(notes=[note, *table.notes])
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
    labels = {image.label for image in source.placed}
    if len(labels) >= _MANY and all(map(_MEASURED.fullmatch, labels)):
        notes.append(f"classes such as {shown(max(labels))} look like measurements; each value is a class of its own")
    if all(map(is_group_name, labels)):
        notes.append(f"classes such as {shown(min(labels))} look like groups; if so, use a label table for the classes")
    if source.layout["kind"] == "folders" and (hidden := hidden_classes(source.listing, source.placed)):
        notes.append(f"{shown(hidden[0])} is hidden and left out; rename it if it is a class")
    if not any(image.split for image in source.placed) and (lists := _lists_of_splits(source)):
        notes.append(f"{shown(lists[0])} may list a split, which is not read; a label table with a column split is")
    return source._replace(notes=notes)


def _lists_of_splits(source: Source) -> list[str]:
    """Return the files that may list a split and were not read."""
    files = _files(source.listing)
    if source.layout["kind"] != "folders":  # a test.csv beside a train.csv names images without labels
        files = [name for name in files if name.casefold().endswith(".txt")]
    return lists_of_splits(files)


def _tables(listing: Listing, *, without: Sequence[int]) -> tuple[list[Source], dict[str, DataError], list[str]]:
    """Return the dataset by each of its label tables.

    Also the errors of label tables that do not fit the images, by name, and why other files are no label tables.
    """
    found: list[Source] = []
    refused: dict[str, DataError] = {}
    why_not: list[str] = []
    for suffixes in (SUFFIXES, (_EXPORT,), _SPREADSHEETS):
        numbers = [
            number
            for number, (name, is_dir) in _looked_at(listing)
            if not is_dir
            and number not in without
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
                layout = _layout_of(listing, number)
                tables = tables_in(listing, layout)
            except DataError as error:
                why_not.append(_reason(error, listing))
                continue
            try:
                found.append(_by_tables(listing, layout, tables))
            except DataError as error:
                if len({row[table.label] for table in tables for row in table.rows.values()}) > 1:
                    refused[listing.names[number][0]] = error
                else:  # it says no classes, such as a test.csv without answers
                    why_not.append(_reason(error, listing))
    return found, refused, why_not


def _largest(tables: list[Source], read: Callable[[Mapping[str, Any]], Source]) -> Source:
    """Return the table with the most images, or several tables as one dataset if their names are those of splits.

    Raises:
        DataError: another table names images that it lacks, or an image is in two splits.
    """
    largest = max(tables, key=lambda table: len(table.placed))
    names = [table.layout["table"] for table in tables]
    said = {name: split for name in names if (split := split_in_path(name))}
    kinds = {table.layout["kind"] for table in tables if table.layout["table"] in said}
    if len(kinds) == 1 and is_a_split(said.values()) and not any(image.split for image in largest.placed):
        largest = read({"kind": kinds.pop(), "table": sorted(said)})
    placed = {image.name for image in largest.placed}
    for table in tables:
        if any(image.name not in placed for image in table.placed):
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
            if any(split_of(name)[1] and lie_in_classes(name, _files(listing), found.placed) for name in left_out):
                continue
            return found._replace(notes=[f"{' and '.join(map(shown, left_out))} left out: no images of classes"])
    return None


def _files(listing: Listing) -> list[str]:
    return [name for _, (name, is_dir) in _looked_at(listing) if not is_dir]


def _looked_at(listing: Listing) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Yield the entries of a listing that are not litter, with their numbers."""
    return ((n, entry) for n, entry in enumerate(listing.names) if not any(map(is_litter, entry[0].split("/"))))
