"""Find the label tables of a dataset, and choose between them and its directories."""

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from darkroom.data.raw.labels import table_names, tables_in
from darkroom.data.raw.listing import Listing
from darkroom.data.raw.names import is_a_split, split_in_path
from darkroom.data.raw.placement import Placed
from darkroom.data.raw.tables import SUFFIXES
from darkroom.errors import DataError
from darkroom.inspection.groups import is_group_column
from darkroom.inspection.reading import EXPORT, SPREADSHEETS, Source, by_tables, entries_of, layout_of_table, reason_of
from darkroom.project.text import shown

MOST_TABLES = 20  # with more tables, each describes a single image
DEEPEST_TABLE = 2  # maximum number of directories above a table
LARGEST_TABLE = 64 << 20  # bytes; larger tables are not tried unless the user names them
_ANSWERS = re.compile(r"submission|prediction", re.IGNORECASE)  # files of a contest, with placeholder labels


def label_tables(listing: Listing, *, without: Sequence[int]) -> tuple[list[Source], dict[str, DataError], list[str]]:
    """Return the dataset as each label table describes it, the errors by table, and the reasons by other file.

    Returns:
        One source for each table that fits the images; the errors of tables that do not fit them, by file name; and
        lines that say why other files were not used as label tables.
    """
    found: list[Source] = []
    refused: dict[str, DataError] = {}
    why_not: list[str] = []
    for suffixes in (SUFFIXES, (EXPORT,), SPREADSHEETS):
        numbers = [
            number
            for number, (name, is_dir) in entries_of(listing)
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
                if suffixes == SPREADSHEETS:
                    raise DataError(f"{listing.names[number][0]} is a spreadsheet; save it as CSV")
                layout = layout_of_table(listing, number)
                tables = tables_in(listing, layout)
            except DataError as error:
                why_not.append(reason_of(error, listing))
                continue
            try:
                found.append(by_tables(listing, layout, tables))
            except DataError as error:
                if len({row[table.label] for table in tables for row in table.rows.values()}) > 1:
                    refused[listing.names[number][0]] = error
                else:  # it says no classes, such as a test.csv without answers
                    why_not.append(reason_of(error, listing))
    return found, refused, why_not


def largest(tables: list[Source], read: Callable[[Mapping[str, Any]], Source]) -> Source:
    """Return the table with the most images, or several tables as one dataset if their names are those of splits.

    Raises:
        DataError: another table names images that it lacks, or an image is in two splits.
    """
    chosen = max(tables, key=lambda table: len(table.placed))
    names = [table.layout["table"] for table in tables]
    said = {name: split for name in names if (split := split_in_path(name))}
    kinds = {table.layout["kind"] for table in tables if table.layout["table"] in said}
    if len(kinds) == 1 and is_a_split(said.values()) and not any(image.split for image in chosen.placed):
        chosen = read({"kind": kinds.pop(), "table": sorted(said)})
    placed = {image.name for image in chosen.placed}
    for table in tables:
        if any(image.name not in placed for image in table.placed):
            raise DataError(
                f"{chosen.listing.where}: {_tables_of(chosen)} and {_tables_of(table)} name different images; put "
                "the rows into one table, with a column split, or give the path of the one to use"
            )
    return chosen


def better(by_folders: Source, table: Source) -> Source:
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


def _tables_of(source: Source) -> str:
    return " and ".join(map(shown, table_names(source.layout)))
