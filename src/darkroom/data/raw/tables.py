"""Label tables: CSV, TSV, JSON Lines or parquet files with the class of each image, and other columns."""

import csv
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from darkroom.data.raw.columns import LABELS, PATHS, find_column, split_column, with_label
from darkroom.data.raw.finding import Files, below, find
from darkroom.data.raw.names import is_a_split, settled, split_of, splits_by_name
from darkroom.data.raw.placement import Placed, check_names
from darkroom.errors import DataError
from darkroom.project.text import shown

LARGEST = 1 << 30  # bytes of a table
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_ABSOLUTE = re.compile(r"/|\w+:/")  # C:/photos/1.jpg, https:/host/1.jpg
_NESTED = re.compile(r"\s*[\[{].*['\"\d].*[\]}]\s*", re.DOTALL)  # a list or object, as Python or JSON writes it


@dataclass(frozen=True)
class Table:
    """A label table.

    Attributes:
        name: its path in the dataset.
        called: its name in errors.
        rows: dicts of column to text, by line.
        path, label, split: the names of these columns; split may be None.
        exported: whether a program exported it, so that paths may begin with directories of another machine.
    """

    name: str
    called: str
    rows: Mapping[int, Mapping[str, str]]
    path: str
    label: str
    split: str | None
    exported: bool = False


def text_table(data: bytes, *, name: str, where: Path, layout: Mapping[str, Any]) -> Table:
    """Return a CSV, TSV, JSON Lines or parquet file as a table.

    Args:
        layout: may name the columns; by default the first of the usual names is used.

    Raises:
        DataError: see read_table, or there are no rows, or a column is missing.
    """
    called, rows = f"{where}: {name}", read_table(data, name=name, where=where)
    if not rows:
        raise DataError(f"{called} has no rows; expected one per image")
    header = list(next(iter(rows.values())))
    path = find_column(header, layout.get("path_column"), PATHS, called=called, key="path_column")
    asked = [name for name in header if name != path and name.casefold() not in LABELS]
    split, said = split_column(rows, layout.get("split_column"), asked=asked, called=called)
    rows = {line: {**row, **said.get(line, {})} for line, row in rows.items()}
    if layout.get("label_column") is None and not any(name.casefold() in LABELS for name in header):
        rows = with_label(rows, [name for name in header if name not in (path, split)], called=called)
        header = list(next(iter(rows.values())))
    label = find_column(header, layout.get("label_column"), LABELS, called=called, key="label_column")
    return Table(name, called, rows, path, label, split)


def place_by_tables(
    names: Sequence[tuple[str, bool]], tables: Sequence[Table], *, where: Path, root: str | None = None
) -> list[Placed]:
    """Return the images of tables, in their order, with class, split and all other columns.

    Without a column for the split, the names of several tables or of their directories may give it (train.csv,
    test.csv), or else the directories of the images (train/1.jpg, test/1.jpg).

    Args:
        names: (path with "/" between its parts, whether it is a directory) of the dataset; Placed.number is the
            position.
        where: the dataset's name in errors.
        root: the directory to which paths are relative; None: detected, see finding.find.

    Raises:
        DataError: a row has no path or label, a split is unknown, an image is missing or named twice, or two class
            names differ only in case, spaces or Unicode form.
    """
    files = Files(names)
    splits = _splits(tables, where=where)
    placed: list[Placed] = []
    seen: dict[int, str] = {}
    for number, table in enumerate(tables):
        for line, row in table.rows.items():
            if not row[table.path].strip() or not row[table.label].strip():
                empty = table.path if not row[table.path].strip() else table.label
                raise DataError(f"{table.called}, row {line}: no {empty}; add it")
            if _NESTED.fullmatch(row[table.label]):
                raise DataError(
                    f"{table.called}, row {line}: the {table.label} is {shown(row[table.label])}; expected one class"
                )
        found = _find(table, files, root=root)
        for line, row in table.rows.items():
            name = names[found[line]][0]
            if first := seen.get(found[line]):
                raise DataError(f"{table.called}, row {line}: {shown(name)} is named in {first} too; keep one of them")
            seen[found[line]] = f"row {line} of {shown(table.name)}" if len(tables) > 1 else f"row {line}"
            others = {key: value for key, value in row.items() if key not in (table.path, table.label, table.split)}
            placed.append(Placed(found[line], name, row[table.label].strip(), splits.get((number, line)), others))
    check_names({image.label for image in placed}, where)
    return placed if splits else _split_by_directories(placed)


def read_table(data: bytes, *, name: str, where: Path) -> dict[int, dict[str, str]]:
    """Return the rows of a table by line, each a dict from column to text, "" for missing values.

    For parquet the key is the number of the row. Spaces around the names of columns are ignored.

    Raises:
        DataError: the suffix is not in SUFFIXES, or the content does not match it.
    """
    called, suffix = f"{where}: {name}", PurePosixPath(name).suffix.casefold()
    if suffix not in SUFFIXES:
        raise DataError(f"{called} is not a table; expected a file that ends with {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        rows = _parquet(data, called=called)
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{called} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from None
        rows = _json_lines(text, called=called) if suffix == ".jsonl" else _separated(text, suffix, called=called)
    rows = {line: _flat(row) for line, row in rows.items()}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    return {line: {key: as_text(row.get(key)) for key in columns} for line, row in rows.items()}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with nested values as columns such as `label.name`, and lists of one item as that item."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        one = next(iter(value), None) if isinstance(value, list) and len(value) < 2 else value
        inner = {f"{key.strip()}.{name}": part for name, part in one.items()} if isinstance(one, dict) else {}
        flat |= inner or {key.strip(): one}
    return flat


def _separated(text: str, suffix: str, *, called: str) -> dict[int, dict[str, Any]]:
    """Return the rows of TSV, or of CSV, whose separator is detected (Excel writes semicolons in many countries)."""
    head = text.partition("\n")[0]
    separator = "\t" if suffix == ".tsv" else max(",;\t", key=head.count)
    rows: dict[int, dict[str, Any]] = {}
    try:
        reader = csv.DictReader(StringIO(text, newline=""), delimiter=separator, strict=True)
        names = [name.strip() for name in reader.fieldnames or ()]
        if twice := next((name for name in names if name and names.count(name) > 1), None):
            raise DataError(f"{called} has two columns {shown(twice)}; rename one or take it out")
        for row in reader:
            if any(row.values()):  # Excel leaves lines of separators behind
                rows[reader.reader.line_num] = row  # a DictReader does not count blank lines
    except csv.Error as error:
        raise DataError(f"{called} cannot be read: {error}") from None
    if long := next((line for line, row in rows.items() if None in row), None):
        raise DataError(f"{called}, row {long}: more values than the header has names; quote values with {separator!r}")
    return rows


def _json_lines(text: str, *, called: str) -> dict[int, dict[str, Any]]:
    rows = {}
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would split at U+2028 inside a string
        if line.strip():
            try:
                rows[number] = json.loads(line)
            except ValueError:
                rows[number] = None
            if not isinstance(rows[number], dict):
                raise DataError(f"{called}, line {number} is not a JSON object")
    return rows


def _parquet(data: bytes, *, called: str) -> dict[int, dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(BytesIO(data)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{called} cannot be read: {str(error).splitlines()[0]}") from None
    return dict(enumerate(rows, 1))


def as_text(value: Any) -> str:
    """Return a value as text, as in a CSV; whole numbers without a decimal point (3, not 3.0)."""
    if value is None or value != value:  # NaN: a missing value of pandas
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _find(table: Table, files: Files, *, root: str | None) -> dict[int, int]:
    """Return the positions of the images of a table by line."""
    paths = {line: posixpath.normpath(row[table.path].strip().replace("\\", "/")) for line, row in table.rows.items()}
    if root is not None:
        found = below(root, paths, files)
    else:
        folder = posixpath.dirname(table.name)
        elsewhere = table.exported or all(map(_ABSOLUTE.match, paths.values()))
        found = find(paths, files, called=table.called, folder=folder, exported=elsewhere)
    if found.absent:
        n = len(found.absent)
        such = ", ".join(map(shown, found.absent[:3]))
        raise DataError(
            f"{table.called} names {n} image{'s' * (n > 1)} not there (such as {such}); add them, or correct the "
            f"paths, which are relative to {'`root`' if root is not None else 'the table'}"
        )
    return found.numbers


def _split_by_directories(placed: Sequence[Placed]) -> list[Placed]:
    """Return images with the split of a directory above them; unchanged unless every image has one."""
    by_image: dict[int, str] = {}
    for image in placed:
        for split, sure in map(split_of, image.name.split("/")[:-1]):
            if split and sure:
                by_image[image.number] = split
    if len(by_image) < len(placed) or not is_a_split(by_image.values()):
        return list(placed)
    splits = settled(by_image)
    return [image._replace(split=splits[image.number]) for image in placed]


def _splits(tables: Sequence[Table], *, where: Path) -> dict[tuple[int, int], str]:
    """Return the splits by number of the table and line, for rows that have one."""
    said: dict[tuple[int, int], str] = {}
    by_name = splits_by_name([table.name for table in tables], where=where)
    for number, table in enumerate(tables):
        for line, row in table.rows.items():
            value = row[table.split] if table.split else by_name[number] or ""
            split, certain = split_of(value)
            if split and certain:
                said[number, line] = split
            elif value.strip():
                raise DataError(
                    f"{table.called}, row {line}: the split is {shown(value)}; expected train, val, test or nothing"
                )
    return settled(said)
