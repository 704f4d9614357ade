"""Label tables: a CSV, TSV, JSON Lines or parquet file that gives each image its class, and more if it likes."""

import csv
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

from darkroom.data.raw.placement import Placed, check_names, settled, split_of
from darkroom.errors import DataError
from darkroom.project.text import shown

LARGEST = 1 << 30  # bytes of a table
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PATHS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath")
LABELS = ("label", "class", "category", "target")
SPLITS = ("split", "subset", "set")


class Columns(NamedTuple):
    """The table of a layout and the names of its columns; None: the first of the usual names that it has.

    Attributes:
        table: its path in the dataset.
        path: of the image, relative to the table.
        label: of its class.
        split: of its split; a row without a value is drawn.
    """

    table: str
    path: str | None = None
    label: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, layout: Mapping[str, Any]) -> Self:
        """Return the settings of the layout in a manifest."""
        return cls(layout["table"], *(layout.get(f"{name}_column") for name in ("path", "label", "split")))


def read_and_place(
    names: Sequence[tuple[str, bool]],
    *,
    n_bytes: Callable[[int], int],
    read: Callable[[int], bytes],
    where: Path,
    columns: Columns,
) -> list[Placed]:
    """Return the images that the table among `names` says; see place_by_table.

    Args:
        n_bytes, read: return the size and the content of the file at a position of `names`.

    Raises:
        DataError: there is no such table, it has more bytes than LARGEST, or see read_table and place_by_table.
    """
    number = next((number for number, entry in enumerate(names) if entry == (columns.table, False)), None)
    if number is None or n_bytes(number) > LARGEST:
        what = "no file" if number is None else f"{n_bytes(number):,} bytes in"
        raise DataError(f"{where}: {what} {shown(columns.table)}; correct `table` in the layout")
    rows = read_table(read(number), name=columns.table, where=where)
    return place_by_table(names, rows, where=where, columns=columns)


def place_by_table(
    names: Iterable[tuple[str, bool]], rows: Mapping[int, Mapping[str, str]], *, where: Path, columns: Columns
) -> list[Placed]:
    """Return the images that a table names, in its order, with class, split and all other columns.

    Args:
        names: (path with "/" between its parts, whether it is a directory) of the dataset; Placed.number is the
            position.
        rows: of the table, see read_table.
        where: what to call the dataset in an error.

    Raises:
        DataError: a column is missing, a row has no path or label, the split is none that is known, an image is not
            there or named twice, or two class names differ by case, spaces or Unicode form only.
    """
    called = f"{where}: {columns.table}"
    if not rows:
        raise DataError(f"{called} has no rows; expected one per image")
    header = list(next(iter(rows.values())))
    path = _column(header, columns.path, PATHS, called=called, key="path_column")
    label = _column(header, columns.label, LABELS, called=called, key="label_column")
    split = next((name for name in header if name.casefold() in SPLITS), None)
    if columns.split:
        split = _column(header, columns.split, SPLITS, called=called, key="split_column")
    splits = _splits({line: row[split] for line, row in rows.items()} if split else {}, called=called)
    numbers = {name: number for number, (name, is_dir) in enumerate(names) if not is_dir}
    folder = posixpath.dirname(columns.table)
    placed: list[Placed] = []
    absent: list[str] = []
    seen: dict[str, int] = {}
    for line, row in rows.items():
        if not row[path].strip() or not row[label].strip():
            raise DataError(f"{called}, row {line}: no {path if not row[path].strip() else label}; add it")
        name = _name(folder, row[path])
        if name not in numbers:
            absent.append(name)
        elif (first := seen.setdefault(name, line)) != line:
            raise DataError(f"{called}, row {line}: {shown(name)} is named in row {first} too; keep one of them")
        else:
            others = {key: value for key, value in row.items() if key not in (path, label, split)}
            placed.append(Placed(numbers[name], name, row[label].strip(), splits.get(line), others))
    if absent:
        such = ", ".join(map(shown, absent[:3]))
        raise DataError(
            f"{called} names {len(absent)} image{'s' * (len(absent) > 1)} not there (such as {such}); add them, or "
            "correct the paths, which are relative to the table"
        )
    check_names({image.label for image in placed}, where)
    return placed


def read_table(data: bytes, *, name: str, where: Path) -> dict[int, dict[str, str]]:
    """Return the rows of a table by their line in it, each a dict from column to text, "" where it lacks the column.

    A row of parquet has its number in place of a line. Spaces around the name of a column are no part of it.

    Raises:
        DataError: the suffix is none of SUFFIXES, or the content is not what it says.
    """
    called, suffix = f"{where}: {name}", PurePosixPath(name).suffix.casefold()
    if suffix not in SUFFIXES:
        raise DataError(f"{called} is no table; expected a file that ends with {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        rows = _parquet(data, called=called)
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{called} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from None
        rows = _json_lines(text, called=called) if suffix == ".jsonl" else _separated(text, suffix, called=called)
    rows = {line: {key.strip(): value for key, value in row.items()} for line, row in rows.items()}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    return {line: {key: _text(row.get(key)) for key in columns} for line, row in rows.items()}


def _separated(text: str, suffix: str, *, called: str) -> dict[int, dict[str, Any]]:
    """Return the rows of CSV, whose separator is found out (Excel writes semicolons in many countries), or of TSV."""
    head = text.partition("\n")[0]
    separator = "\t" if suffix == ".tsv" else max(",;\t", key=head.count)
    rows: dict[int, dict[str, Any]] = {}
    try:
        reader = csv.DictReader(StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            rows[reader.reader.line_num] = row  # the line_num of a DictReader leaves blank lines out
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


def _text(value: Any) -> str:
    """Return a value as the text that a CSV would have; whole numbers without a point, as 3 and not 3.0."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _column(header: Sequence[str], given: str | None, usual: Sequence[str], *, called: str, key: str) -> str:
    wanted = [given.strip()] if given else usual
    found = next((name for name in header if (name if given else name.casefold()) in wanted), None)
    if found is None:
        raise DataError(
            f"{called} has no column {' or '.join(wanted)}, only {', '.join(map(shown, header))}; name it with `{key}` "
            "in the layout"
        )
    return found


def _name(folder: str, path: str) -> str:
    """Return the path of an image in the dataset, without "." and ".."."""
    return posixpath.normpath(posixpath.join(folder, path.strip().replace("\\", "/")))


def _splits(values: Mapping[int, str], *, called: str) -> dict[int, str]:
    """Return the split by line of the rows that have one."""
    said: dict[int, str] = {}
    for line, value in values.items():
        split, certain = split_of(value)
        if split and certain:
            said[line] = split
        elif value.strip():
            raise DataError(f"{called}, row {line}: the split is {shown(value)}; expected train, val, test or nothing")
    return settled(said)
