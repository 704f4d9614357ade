"""Find the class and split of every image of a dataset from directories, label tables or shards."""

from collections.abc import Mapping
from typing import Any

from darkroom.data.raw.exports import coco_table, label_studio_table
from darkroom.data.raw.listing import Listing
from darkroom.data.raw.placement import Folders, Placed, place
from darkroom.data.raw.shards import place_in_shards
from darkroom.data.raw.tables import LARGEST, Table, place_by_tables, text_table
from darkroom.errors import DataError
from darkroom.project.text import shown

TABLES = ("table", "coco", "label_studio")  # kinds of layouts that name a label table
LISTED = ("folders", *TABLES, "parquet")  # kinds of layouts of directories and archives


def placed_in(listing: Listing, layout: Mapping[str, Any], *, max_archive_bytes: int) -> list[Placed]:
    """Return the images of a directory or archive, numbered by position in the listing, or by row in shards.

    Args:
        layout: as in a manifest, of a kind in LISTED.
        max_archive_bytes: maximum unpacked size of shards.

    Raises:
        DataError: see placement.place, tables.place_by_tables and shards.place_in_shards.
    """
    if layout["kind"] == "folders":
        return place(listing.names, where=listing.where, folders=Folders.of(layout))
    if layout["kind"] == "parquet":
        return place_in_shards(listing, layout, max_archive_bytes=max_archive_bytes)
    return place_by_tables(listing.names, tables_in(listing, layout), where=listing.where, root=layout.get("root"))


def tables_in(listing: Listing, layout: Mapping[str, Any]) -> list[Table]:
    """Return the label tables that a layout names.

    Raises:
        DataError: there is no such file, it is too large, or see tables.text_table and exports.
    """
    return [_table(listing, name, layout) for name in table_names(layout)]


def table_names(layout: Mapping[str, Any]) -> list[str]:
    """Return the paths of the layout's label tables."""
    given = layout.get("table", [])
    return [given] if isinstance(given, str) else list(given)


def _table(listing: Listing, name: str, layout: Mapping[str, Any]) -> Table:
    number = next((number for number, entry in enumerate(listing.names) if entry == (name, False)), None)
    if number is None or listing.n_bytes(number) > LARGEST:
        what = "no file" if number is None else f"{listing.n_bytes(number):,} bytes in"
        raise DataError(f"{listing.where}: {what} {shown(name)}; correct `table` in the layout")
    data = listing.read(number)
    if layout["kind"] == "coco":
        return coco_table(data, name=name, where=listing.where, layout=layout)
    if layout["kind"] == "label_studio":
        return label_studio_table(data, name=name, where=listing.where, layout=layout)
    return text_table(data, name=name, where=listing.where, layout=layout)
