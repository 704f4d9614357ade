"""Label tables: CSV, TSV, JSON Lines or parquet files with the class of each image, and other columns."""

import csv
import json
import posixpath
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from darkroom.data.raw.columns import LABELS, PATHS, find_column, plain, with_label, with_split
from darkroom.data.raw.directories import splits_by_directories
from darkroom.data.raw.finding import Files, below, find
from darkroom.data.raw.names import settled, split_in_path, split_meant, splits_by_name
from darkroom.data.raw.placement import Placed, check_names
from darkroom.errors import DataError
from darkroom.project.text import shown

LARGEST = 1 << 30  # bytes of a table
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_ABSOLUTE = re.compile(r"/|\w+:/")  # C:/photos/1.jpg, https:/host/1.jpg
_NESTED = re.compile(r"[\s\[{]*[\[{]\s*['\"].*[\]}]\s*", re.DOTALL)  # a list of texts or an object


class BesideSplitsError(DataError):
    """An image of a table lies beside directories of splits, and no column says its split."""


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
    called = f"{where}: {name}"
    rows: Mapping[int, Mapping[str, str]] = read_table(data, name=name, where=where)
    if not rows:
        raise DataError(f"{called} has no rows; expected one per image")
    header = list(next(iter(rows.values())))
    path = find_column(header, layout.get("path_column"), PATHS, called=called, key="path_column")
    given = layout.get("label_column")
    asked = [name for name in header if name not in (path, given and given.strip()) and plain(name) not in LABELS]
    labelled = given is not None or any(plain(name) in LABELS for name in header)
    rows, split = with_split(rows, layout.get("split_column"), asked=asked, called=called, labelled=labelled)
    if not labelled:
        rows = with_label(rows, [name for name in header if name not in (path, split)], called=called)
        header = list(next(iter(rows.values())))
    label = find_column(header, given, LABELS, called=called, key="label_column")
    return Table(name, called, rows, path, label, split)


def place_by_tables(
    names: Sequence[tuple[str, bool]], tables: Sequence[Table], *, where: Path, root: str | None = None
) -> list[Placed]:
    """Return the images of tables, in their order, with class, split and all other columns.

    Without a column for the split, the names of several tables or of their directories may give it (train.csv,
    test.csv). A row without a split has that of the directories of the image (train/1.jpg, test/1.jpg).

    Args:
        names: (path with "/" between its parts, whether it is a directory) of the dataset; Placed.number is the
            position.
        where: the dataset's name in errors.
        root: the directory to which paths are relative; None: detected, see finding.find.

    Raises:
        DataError: a row has no path or label, a split is unknown, an image is missing, named twice or beside the
            directories of splits, or two class names differ only in case, spaces or Unicode form.
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
                    f"{table.called}, row {line}: the {table.label} is {shown(row[table.label])}; expected one class; "
                    "write one class per row, or name another column with `label_column`"
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
    return _with_directories(placed, called=tables[0].called)


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
            text = data.decode("utf-16" if data[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
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
        one: Any = value
        if isinstance(value, list):
            one = next(iter(value), None) if len(value) < 2 else [as_text(item) for item in value]
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
            except (ValueError, RecursionError):
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
        where: dict[str, Any] = {"called": table.called, "folder": folder, "exported": elsewhere}
        where["split"] = split_in_path(table.name)
        found = find(paths, files, **where)
        unquoted = {line: unquote(path) for line, path in paths.items()}  # my%20cat.jpg
        if found.absent and unquoted != paths:
            found = min(found, find(unquoted, files, **where), key=lambda one: len(one.absent))
    if found.absent:
        n = len(found.absent)
        such = ", ".join(map(shown, found.absent[:3]))
        raise DataError(
            f"{table.called} names {n} image{'s' * (n > 1)} not there (such as {such}); add them, or correct the "
            f"paths, which are relative to {'`root`' if root is not None else 'the table, or to `root` of the layout'}"
        )
    return found.numbers


def _with_directories(placed: Sequence[Placed], *, called: str) -> list[Placed]:
    """Return images without a split with that of a directory above them.

    Raises:
        BesideSplitsError: none has a split, and directories name the splits of some images only.
    """
    by_directory = splits_by_directories([image.name for image in placed])
    if None in by_directory and any(by_directory) and not any(image.split for image in placed):
        odd = placed[by_directory.index(None)].name
        other = next(
            image.name for image, split in zip(placed, by_directory, strict=True) if split not in (None, "train")
        )
        raise BesideSplitsError(
            f"{called}: {shown(odd)} is in no directory of a split, as {shown(other)} is; give every row its split "
            "in a column, which `split_column` in the layout names"
        )
    both = zip(placed, by_directory, strict=True)
    splits = settled({image.number: said for image, split in both if (said := image.split or split)})
    return [image._replace(split=splits.get(image.number)) for image in placed]


def _splits(tables: Sequence[Table], *, where: Path) -> dict[tuple[int, int], str]:
    """Return the splits by number of the table and line, for rows that have one."""
    said: dict[tuple[int, int], str] = {}
    by_name = splits_by_name([table.name for table in tables], where=where)
    for number, table in enumerate(tables):
        for line, row in table.rows.items():
            value = row[table.split] if table.split else by_name[number] or ""
            if split := split_meant(value) if table.split else value:
                said[number, line] = split
            elif value.strip():
                raise DataError(
                    f"{table.called}, row {line}: the split is {shown(value)}; expected train, val, test or nothing"
                )
    return said
