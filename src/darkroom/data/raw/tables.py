"""Label tables: a CSV, TSV, JSON Lines or parquet file that gives each image its class, and more if it likes."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

from darkroom.data.raw.placement import OFFICIAL, Placed, check_names, split_of
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


def place_by_table(
    names: Iterable[str], rows: Sequence[Mapping[str, str]], *, where: Path, columns: Columns
) -> list[Placed]:
    """Return the images that a table names, in its order, with class, split and all other columns.

    Args:
        names: the files of the dataset, with "/" between the parts of a path; Placed.number is the position.
        rows: of the table, see read_table.
        where: what to call the dataset in an error.

    Raises:
        DataError: a column is missing, a row has no path or label, the split is none that is known, an image is not
            there or named twice, or two class names differ by case, spaces or Unicode form only.
    """
    called = f"{where}: {columns.table}"
    if not rows:
        raise DataError(f"{called} has no rows; expected one per image")
    path = _column(rows[0], columns.path, PATHS, called=called, key="path_column")
    label = _column(rows[0], columns.label, LABELS, called=called, key="label_column")
    split = columns.split or next((name for name in rows[0] if name.casefold() in SPLITS), None)
    numbers = {name: number for number, name in enumerate(names)}
    folder = PurePosixPath(columns.table).parent
    placed: list[Placed] = []
    absent: list[str] = []
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        if not row[path].strip() or not row[label].strip():
            raise DataError(f"{called}, row {line}: no {path if not row[path].strip() else label}; add it")
        name = _name(folder, row[path])
        if name not in numbers:
            absent.append(name)
        elif (first := seen.setdefault(name, line)) != line:
            raise DataError(f"{called}, row {line}: {shown(name)} is named in row {first} too; keep one of them")
        else:
            others = {key: value for key, value in row.items() if key not in (path, label, split)}
            side = _split(row.get(split or "", ""), called=f"{called}, row {line}")
            placed.append(Placed(numbers[name], name, row[label].strip(), side, others))
    if absent:
        such = ", ".join(map(shown, absent[:3]))
        raise DataError(
            f"{called} names {len(absent)} image{'s' * (len(absent) > 1)} not there (such as {such}); add them, or "
            "correct the paths, which are relative to the table"
        )
    check_names({image.label for image in placed}, where)
    return placed


def read_table(data: bytes, *, name: str, where: Path) -> list[dict[str, str]]:
    """Return the rows of a table, each a dict from column to text; a row that lacks a column has "" there.

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
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: _text(row.get(key)) for key in columns} for row in rows]


def _separated(text: str, suffix: str, *, called: str) -> list[dict[str, Any]]:
    """Return the rows of CSV, whose separator is found out (Excel writes semicolons in many countries), or of TSV."""
    head = text.partition("\n")[0]
    separator = "\t" if suffix == ".tsv" else max(",;\t", key=head.count)
    try:
        reader = csv.DictReader(StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{called} cannot be read: {error}") from None
    if long := next((number for number, row in enumerate(rows, 2) if None in row), None):
        raise DataError(f"{called}, row {long}: more values than the header has names; quote values with {separator!r}")
    return rows


def _json_lines(text: str, *, called: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                raise DataError(f"{called}, line {number} is not a JSON object") from None
    return rows


def _parquet(data: bytes, *, called: str) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(BytesIO(data)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{called} cannot be read: {str(error).splitlines()[0]}") from None
    return rows


def _text(value: Any) -> str:
    """Return a value as the text that a CSV would have; whole numbers without a point, as 3 and not 3.0."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _column(row: Mapping[str, str], given: str | None, usual: Sequence[str], *, called: str, key: str) -> str:
    found = next((name for name in row if name == given or (given is None and name.strip().casefold() in usual)), None)
    if found is None:
        wanted = given or " or ".join(usual)
        raise DataError(
            f"{called} has no column {wanted}, only {', '.join(map(shown, row))}; name it with `{key}` in the layout"
        )
    return found


def _name(folder: PurePosixPath, path: str) -> str:
    parts = [part for part in (folder / path.strip().replace("\\", "/")).parts if part != "."]
    return "/".join(parts)


def _split(value: str, *, called: str) -> str | None:
    if not value.strip():
        return None
    split, certain = split_of(value)
    if split == "eval":
        split = "val"
    if split not in OFFICIAL or not certain:
        raise DataError(f"{called}: the split is {shown(value)}; expected train, val, test or nothing")
    return split
