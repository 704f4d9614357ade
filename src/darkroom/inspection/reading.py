"""Read a dataset by a layout, as `download` will."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from darkroom.data.raw.exports import export_kind
from darkroom.data.raw.labels import TABLES, placed_in, tables_in
from darkroom.data.raw.listing import Listing
from darkroom.data.raw.names import is_litter
from darkroom.data.raw.placement import Placed, check_classes
from darkroom.data.raw.shards import listing_of_rows
from darkroom.data.raw.tables import Table, place_by_tables
from darkroom.errors import DataError
from darkroom.project.text import shown

EXPORT = ".json"  # suffix of COCO and Label Studio
SPREADSHEETS = (".xlsx", ".xls", ".ods")


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


def read_with(listing: Listing, max_archive_bytes: int, layout: Mapping[str, Any]) -> Source:
    """Return the dataset read by these keys of a layout; its kind is table or folders if none is given.

    Raises:
        DataError: the layout does not fit.
    """
    whole = {"kind": "table" if "table" in layout else "folders", **layout}
    if whole["kind"] in TABLES:
        return by_tables(listing, whole, tables_in(listing, whole))
    placed = placed_in(listing, whole, max_archive_bytes=max_archive_bytes)
    check_classes(placed, where=listing.where)
    if whole["kind"] == "parquet":
        listing = listing_of_rows(listing, whole, placed)
    return Source(listing, whole, placed, [])


def by_tables(listing: Listing, layout: dict[str, Any], tables: Sequence[Table]) -> Source:
    """Return the dataset read by label tables.

    Raises:
        DataError: they do not fit the images.
    """
    placed = place_by_tables(listing.names, tables, where=listing.where, root=layout.get("root"))
    check_classes(placed, where=listing.where)
    columns = dict.fromkeys(shown(table.split) for table in tables if table.split)
    said = any(image.split for image in placed) and " and ".join(columns)
    return Source(listing, layout, placed, [f"the splits are those of column {said}"] if said else [])


def layout_of_table(listing: Listing, number: int) -> dict[str, Any]:
    """Return the layout of a label table.

    Raises:
        DataError: it is JSON of an unknown kind.
    """
    name, _ = listing.names[number]
    kind: str | None = "table"
    if PurePosixPath(name).suffix.casefold() == EXPORT:
        kind = export_kind(listing.read(number))
    if kind is None:
        raise DataError(
            f"{listing.where}: {name} is neither COCO nor an export of Label Studio; save it as CSV or JSON Lines with "
            "the columns path and label"
        )
    return {"kind": kind, "table": name}


def reason_of(error: DataError, listing: Listing) -> str:
    """Return the message of an error without the path of the dataset."""
    return str(error).removeprefix(f"{listing.where}: ")


def files_of(listing: Listing) -> list[str]:
    """Return the files that are not litter."""
    return [name for _, (name, is_dir) in entries_of(listing) if not is_dir]


def entries_of(listing: Listing) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Yield the entries of a listing that are not litter, with their numbers."""
    return ((n, entry) for n, entry in enumerate(listing.names) if not any(map(is_litter, entry[0].split("/"))))
