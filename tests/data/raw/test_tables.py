"""Label tables: which image is of which class, in which split, and what else is said of it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from darkroom.data.raw.layouts import read_images
from darkroom.data.raw.tables import Columns, place_by_table, read_table
from darkroom.errors import DataError
from tests.support.raw_files import write_manifest, write_tar

ROWS = [
    {"path": "a.jpg", "label": "cat", "split": "train", "patient": "p1"},
    {"path": "b/c.jpg", "label": "dog", "split": "test", "patient": "p2"},
    {"path": "d.jpg", "label": "dog", "split": "", "patient": ""},
]
NAMES = ["labels.csv", "a.jpg", "b/c.jpg", "d.jpg", "masks/a.png"]


def written(rows: Sequence[Mapping[str, Any]], suffix: str, folder: Path) -> bytes:
    """Return rows as a table of this kind, as pandas writes it."""
    table, path = pd.DataFrame(rows), folder / f"t{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    elif suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path.read_bytes()


def listed(*names: str) -> list[tuple[str, bool]]:
    """Return names as a dataset lists them; one that ends in "/" is a directory."""
    return [(name.rstrip("/"), name.endswith("/")) for name in names]


def placed(rows: list[dict[str, str]], names: list[str] = NAMES, **columns: Any) -> list[Any]:
    by_line = dict(enumerate(rows, 2))
    found = place_by_table(listed(*names), by_line, where=Path("data"), columns=Columns("labels.csv", **columns))
    return [(image.name, image.label, image.split, image.attributes) for image in found]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_of_every_kind_have_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = read_table(written(ROWS, suffix, tmp_path), name=f"labels{suffix}", where=Path("data"))
    first = 1 if suffix in (".jsonl", ".parquet") else 2  # below the header
    assert rows == dict(enumerate(ROWS, first))
    numbers: list[dict[str, Any]] = [{"path": "a.jpg", "label": 3}, {"path": "b.jpg", "label": None}]
    read = read_table(written(numbers, suffix, tmp_path), name=f"x{suffix}", where=Path("data"))
    assert [row["label"] for row in read.values()] == ["3" if suffix != ".csv" and suffix != ".tsv" else "3.0", ""]


@pytest.mark.parametrize("text", ["path;label\na,1.jpg;cat\n", '\ufeffpath,label\r\n"a,1.jpg",cat\r\n'])
def test_what_excel_writes_is_read(text: str) -> None:
    assert read_table(text.encode(), name="t.csv", where=Path("data")) == {2: {"path": "a,1.jpg", "label": "cat"}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'path,label\n\n"a.jpg",cat\n\n\nb.jpg,dog\n'),
        ("t.csv", 'path,label\r\n\r\n"a.jpg",cat\r\n\r\n\r\nb.jpg,dog\r\n'),
        ("t.jsonl", '\n\n{"path": "a.jpg", "label": "cat"}\n\r\n\n{"path": "b.jpg", "label": "dog"}\n'),
    ],
)
def test_a_row_has_the_number_of_its_line(name: str, text: str) -> None:
    assert list(read_table(text.encode(), name=name, where=Path("data"))) == [3, 6]


def test_a_line_of_json_may_hold_any_character() -> None:
    text = '{"path": "a\u2028b.jpg", "label": "x\x85y\x0bz"}'.replace("\x0b", "\\u000b")
    rows = read_table(text.encode(), name="t.jsonl", where=Path("data"))
    assert rows == {1: {"path": "a\u2028b.jpg", "label": "x\x85y\x0bz"}}


def test_spaces_around_names_of_columns_are_no_part_of_them() -> None:
    rows = read_table(b"path, label , split\na.jpg,cat,test\n", name="labels.csv", where=Path("data"))
    assert placed(list(rows.values())) == [("a.jpg", "cat", "test", {})]
    assert placed(list(rows.values()), label=" label ", split="split") == [("a.jpg", "cat", "test", {})]
    lines = b'{"path": "a.jpg", "label": "cat"}\n{"path": "d.jpg", "label ": "dog"}\n'
    rows = read_table(lines, name="labels.jsonl", where=Path("data"))
    assert [row["label"] for row in rows.values()] == ["cat", "dog"]


def test_a_column_without_a_name_is_no_split() -> None:
    rows = read_table(b",path,label\n0,a.jpg,cat\n", name="labels.csv", where=Path("data"))
    assert placed(list(rows.values())) == [("a.jpg", "cat", None, {"": "0"})]


@pytest.mark.parametrize("key", ["path", "label", "split"])
def test_a_named_column_that_is_missing_is_refused(key: str) -> None:
    typo: dict[str, Any] = {key: "typo"}
    with pytest.raises(DataError, match=f"has no column typo, only 'path', .*; name it with `{key}_column` in the"):
        placed(ROWS, **typo)


@pytest.mark.parametrize(("other", "expected"), [("train", "test"), ("test", "val"), ("val", "test")])
def test_eval_is_val_beside_a_test_set_and_else_test(other: str, expected: str) -> None:
    rows = [{"path": "a.jpg", "label": "cat", "split": "eval"}, {"path": "d.jpg", "label": "dog", "split": other}]
    assert [split for _, _, split, _ in placed(rows)] == [expected, other]


def test_an_image_has_the_class_split_and_rest_of_its_row() -> None:
    assert placed(ROWS) == [
        ("a.jpg", "cat", "train", {"patient": "p1"}),
        ("b/c.jpg", "dog", "test", {"patient": "p2"}),
        ("d.jpg", "dog", None, {"patient": ""}),
    ]
    renamed = [{"Filename": ".\\b\\c.jpg", "Class": " dog ", "fold": "Validation"}]
    assert placed(renamed, split="fold") == [("b/c.jpg", "dog", "val", {})]
    assert placed([{"x": "a.jpg", "y": "cat"}], path="x", label="y") == [("a.jpg", "cat", None, {})]


def test_paths_are_relative_to_the_table() -> None:
    rows = {2: ROWS[0], 3: ROWS[1] | {"path": "../images/a.jpg"}, 4: ROWS[1] | {"path": "x/../c.jpg"}}
    names = listed("images/", "set/c.jpg", "images/a.jpg", "set/a.jpg")
    found = place_by_table(names, rows, where=Path("data"), columns=Columns("set/labels.csv"))
    assert [(image.number, image.name) for image in found] == [(3, "set/a.jpg"), (2, "images/a.jpg"), (1, "set/c.jpg")]


@pytest.mark.parametrize("path", ["../a.jpg", "x/../../a.jpg", "/a.jpg", "b", "b/.."])
def test_a_path_that_is_no_file_of_the_dataset_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="names 1 image not there .*; add them, or correct the paths"):
        placed([{"path": path, "label": "cat"}], ["a.jpg", "b/", "b/c.jpg"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "labels.csv has no rows; expected one per image"),
        (
            [{"a": "1", "label": "cat"}],
            "has no column path or file or filename .*, only 'a', 'label'; name it with `path_",
        ),
        ([{"path": "a.jpg", "b": "cat"}], "has no column label or class or category or target, only 'path', 'b'; name"),
        ([{"path": "a.jpg", "label": " "}], "row 2: no label; add it"),
        (
            [{"path": "no.jpg", "label": "cat"}] * 2,
            "names 2 images not there .such as 'no.jpg', 'no.jpg'.; add",
        ),
        (
            [{"path": "a.jpg", "label": "cat"}, {"path": "./a.jpg", "label": "dog"}],
            "row 3: 'a.jpg' is named in row 2 too",
        ),
        (
            [{"path": "a.jpg", "label": "cat", "split": "fold 3"}],
            "row 2: the split is 'fold 3'; expected train, val, test",
        ),
        (
            [{"path": "a.jpg", "label": "cat"}, {"path": "d.jpg", "label": "Cat"}],
            "class names 'cat' and 'Cat' differ|'Cat'",
        ),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused(rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        placed(rows)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("labels.xlsx", b"PK", "labels.xlsx is no table; expected a file that ends with .csv, .tsv, .jsonl, .parquet"),
        ("t.csv", b"path,label\n\xff,1\n", "t.csv is not UTF-8 (byte 11); save it as UTF-8"),
        ("t.csv", b"path,label\na,b,c\n", "t.csv, row 2: more values than the header has names; quote values with ','"),
        ("t.csv", b'path,label\n"a,b\n', "t.csv cannot be read: unexpected end of data"),
        ("t.jsonl", b'{"path": "a"}\n[1]\n', "t.jsonl, line 2 is not a JSON object"),
        ("t.jsonl", b'\n[["path", "a"], ["label", "b"]]\n', "t.jsonl, line 2 is not a JSON object"),
        ("t.jsonl", b'{"path": "a"', "t.jsonl, line 1 is not a JSON object"),
        ("t.csv", b"path,label\n\n\na,b,c\n", "t.csv, row 4: more values than the header has names"),
        ("t.parquet", b"PAR1", "t.parquet cannot be read: "),
    ],
)
def test_a_damaged_table_is_refused(name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_table(data, name=name, where=Path("data"))


def test_images_of_an_archive_come_by_its_table(tmp_path: Path) -> None:
    table = "\n".join(["path,label,site", "x/1.png,cat,A", "x/2.png,dog,B"])
    write_tar(tmp_path / "data.tar", {"x/2.png": b"2", "x/1.png": b"1", "x/3.png": b"3", "labels.csv": table.encode()})
    write_manifest(tmp_path, {"kind": "table", "table": "labels.csv"})
    images = list(read_images(tmp_path, max_archive_bytes=10**6, max_image_bytes=100))
    assert [(image.name, image.label, image.data, image.attributes) for image in images] == [
        ("x/1.png", "cat", b"1", {"site": "A"}),
        ("x/2.png", "dog", b"2", {"site": "B"}),
    ]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"layout": {"kind": "table", "table": "other.csv"}}))
    with pytest.raises(DataError, match="no file 'other.csv'; correct `table` in the layout"):
        list(read_images(tmp_path, max_archive_bytes=10**6, max_image_bytes=100))
