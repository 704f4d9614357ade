"""Label tables: the class, split and other columns of each image."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from darkroom.data.raw.layouts import read_images
from darkroom.data.raw.tables import place_by_tables, read_table, text_table
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


def csv_of(rows: Sequence[Mapping[str, str]]) -> bytes:
    return pd.DataFrame(rows).to_csv(index=False).encode() if rows else b"path,label\n"


def placed_by(
    tables: Mapping[str, bytes], *names: str, root: str | None = None, **layout: str
) -> list[tuple[str, str, str | None, Mapping[str, str]]]:
    """Return what tables by name say of files."""
    where = Path("data")
    read = [text_table(data, name=name, where=where, layout=layout) for name, data in tables.items()]
    found = place_by_tables(listed(*tables, *names), read, where=where, root=root)
    return [(image.name, image.label, image.split, image.attributes) for image in found]


def placed(rows: list[dict[str, str]], names: list[str] = NAMES, **layout: str) -> list[Any]:
    return placed_by({"labels.csv": csv_of(rows)}, *names, **layout)


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
    table = {"labels.csv": b"path, label , split\na.jpg,cat,test\n"}
    assert placed_by(table, "a.jpg") == [("a.jpg", "cat", "test", {})]
    assert placed_by(table, "a.jpg", label_column=" label ", split_column="split") == [("a.jpg", "cat", "test", {})]
    lines = b'{"path": "a.jpg", "label": "cat"}\n{"path": "d.jpg", "label ": "dog"}\n'
    rows = read_table(lines, name="labels.jsonl", where=Path("data"))
    assert [row["label"] for row in rows.values()] == ["cat", "dog"]


def test_a_column_without_a_name_is_no_split() -> None:
    assert placed_by({"labels.csv": b",path,label\n0,a.jpg,cat\n"}, "a.jpg") == [("a.jpg", "cat", None, {"": "0"})]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("Usage", ("Training", "PublicTest", "PrivateTest"), ["train", "test", "test"]),
        ("phase", ("train", "val", "TEST"), ["train", "val", "test"]),
        ("partition", ("train", "", "eval"), ["train", None, "test"]),
        ("is_valid", ("False", "True", ""), [None, "val", None]),  # may be train, or what its directory says
        ("is_train", ("1", "0", "1"), ["train", "test", "train"]),
        ("is_valid", ("1", "1", "0"), [None] * 3),  # most images are in order
        ("is_test_positive", ("0", "0", "1"), [None] * 3),
        ("phase", ("train", "test", "gas"), [None] * 3),
        ("set", ("train_station", "test_track", "test"), [None] * 3),
        ("place", ("train", "test", "test"), [None] * 3),
    ],
)
def test_a_column_of_splits_has_a_usual_name(column: str, values: tuple[str, ...], expected: list[str | None]) -> None:
    rows = [{"path": name, "label": "cat", column: value} for name, value in zip("abc", values, strict=True)]
    assert [split for _, _, split, _ in placed(rows, [*"abc"])] == expected


def test_the_first_usual_name_of_a_column_of_splits_counts() -> None:
    rows = [{"path": "a", "label": "x", "Usage": "train", "split": "test"}, {"path": "b", "label": "x", "Usage": "val"}]
    rows[1]["split"] = "train"
    assert [split for _, _, split, _ in placed(rows, ["a", "b"])] == ["test", "train"]
    assert [split for _, _, split, _ in placed(rows, ["a", "b"], split_column="Usage")] == ["train", "val"]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("Usage", ("Training", "PublicTest"), ["train", "test"]),
        ("is_valid", ("0", "1"), [None, "val"]),
        ("is_train", ("1", "0"), ["train", "test"]),
    ],
)
def test_a_column_may_be_named_as_it_is_found(column: str, values: tuple[str, ...], expected: list[str | None]) -> None:
    rows = [{"path": name, "label": "cat", column: value} for name, value in zip("ab", values, strict=True)]
    named = placed(rows, [*"ab"], split_column=column)
    assert [split for _, _, split, _ in named] == expected
    assert named == placed(rows, [*"ab"])


def test_a_column_called_split_may_hold_what_others_hold() -> None:
    rows = [{"path": name, "label": "cat", "split": value} for name, value in (("a", "Training"), ("b", "PublicTest"))]
    assert [split for _, _, split, _ in placed(rows, ["a", "b"])] == ["train", "test"]


def test_columns_of_single_splits_are_read_together() -> None:
    def splits(**values: str) -> list[str | None]:
        rows = [{"path": name, "label": "cat"} for name in "abcd"]
        for column, said in values.items():
            rows = [row | {column: value} for row, value in zip(rows, said, strict=True)]
        return [split for _, _, split, _ in placed(rows, [*"abcd"])]

    assert splits(is_train="1100", is_valid="0010", is_test="0001") == ["train", "train", "val", "test"]
    assert splits(is_valid="0100", is_test="0010") == [None, "val", "test", None]
    assert splits(is_train="1000", is_test="0111") == [None] * 4
    with pytest.raises(
        DataError, match="row 3: the split is 'is_train and is_test'; expected train, val, test or noth"
    ):
        splits(is_train="1101", is_test="0110")
    with pytest.raises(DataError, match="row 5: the split is 'neither is_train nor is_valid'; expected train, val"):
        splits(is_train="1100", is_valid="0010")


def test_a_named_flag_is_read_with_the_others() -> None:
    rows = [{"path": name, "label": "cat", "is_valid": str(name == "a"), "is_test": str(name != "a")} for name in "abc"]
    assert [split for _, _, split, _ in placed(rows, [*"abc"], split_column="is_test")] == ["val", "test", "test"]


def test_a_flag_beside_columns_of_classes_may_be_a_class() -> None:
    classes = {"a": "is_train", "b": "is_bus", "c": "is_car", "d": "is_bus"}
    rows = [{"path": name, **{one: str(one == own) for one in classes.values()}} for name, own in classes.items()]
    found = [(label, split) for _, label, split, _ in placed(rows, [*"abcd"])]
    assert found == [("is_train", None), ("is_bus", None), ("is_car", None), ("is_bus", None)]


def test_the_column_of_the_class_is_no_split() -> None:
    rows = [{"path": name, "is_valid": value} for name, value in zip("abc", "010", strict=True)]
    found = placed(rows, [*"abc"], label_column="is_valid")
    assert [(label, split) for _, label, split, _ in found] == [("0", None), ("1", None), ("0", None)]


def test_directories_of_images_say_the_split_if_no_column_does() -> None:
    rows = [{"path": "train/1.jpg", "label": "cat"}, {"path": "valid/x/1.jpg", "label": "cat"}]
    files = ["data/train/1.jpg", "data/valid/x/1.jpg"]
    assert [split for _, _, split, _ in placed(rows, files)] == ["train", "val"]
    said = [row | {"set": "train"} for row in rows]
    assert [split for _, _, split, _ in placed(said, files)] == ["train", "train"]
    partly = [rows[0] | {"is_valid": "1"}, rows[1] | {"is_valid": "0"}, {**rows[0], "path": "train/2.jpg"}]
    partly[2]["is_valid"] = "0"
    files = ["train/1.jpg", "valid/x/1.jpg", "train/2.jpg"]
    assert [split for _, _, split, _ in placed(partly, files)] == ["val", "val", "train"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["seg_train/1", "seg_test/2"], ["train", "test"]),
        (["all/Training Set/1", "all/Test Set/2"], ["train", "test"]),
        (["train/test/1", "val/test/2"], ["train", "val"]),  # "test" is a class
        (["test_data/train/1", "test_data/val/2"], ["train", "val"]),
        (["test_rig/train/1", "test_rig/val/2", "field/val/3"], ["train", "val", "val"]),
        (["train station/1", "test track/2"], [None, None]),
        (["training_shoes/1", "test_tubes/2", "cups/3"], [None] * 3),
        (["a_train/cats/1", "b_test/cats/2"], ["train", "test"]),
        (["train/1", "train/2"], [None, None]),
    ],
)
def test_directories_may_say_the_split_in_any_nesting(files: list[str], expected: list[str | None]) -> None:
    rows = [{"path": name, "label": "cat"} for name in files]
    assert [split for _, _, split, _ in placed(rows, files)] == expected


@pytest.mark.parametrize("splits", [("train", "test"), ("seg_train", "seg_test")])
def test_an_image_beside_directories_of_splits_is_refused(splits: tuple[str, str]) -> None:
    files = [f"{splits[0]}/1.jpg", f"{splits[1]}/2.jpg", "extra/3.jpg"]
    rows = [{"path": name, "label": "cat"} for name in files]
    message = f"'extra/3.jpg' is in no directory of a split, as '{splits[1]}/2.jpg' is; give every row its split in a"
    with pytest.raises(DataError, match=message):
        placed(rows, files)
    assert [split for _, _, split, _ in placed([row | {"set": "train"} for row in rows], files)] == ["train"] * 3


def test_one_column_per_class_says_the_class() -> None:
    rows = [{"": "0", "image": "a", "MEL": "1.0", "NV": "0.0"}, {"": "1", "image": "b", "MEL": "0.0", "NV": "1.0"}]
    assert [label for _, label, *_ in placed(rows, ["a", "b"])] == ["MEL", "NV"]
    said = [{"image": "a", "MEL": "True", "NV": "False"}, {"image": "b", "MEL": "False", "NV": "True"}]
    assert [label for _, label, *_ in placed(said, ["a", "b"])] == ["MEL", "NV"]
    with pytest.raises(DataError, match="row 3: of the classes 'MEL', 'NV' it has 'MEL' and 'NV'; expected one 1 per"):
        placed([rows[0], rows[1] | {"MEL": "1"}], ["a", "b"])
    coded = [{"image": "a", "cat": "True", "dog": "False"}, {"image": "b", "cat": "False", "dog": "True"}]
    assert [label for _, label, *_ in placed(coded, ["a", "b"])] == ["cat", "dog"]
    with pytest.raises(
        DataError, match="no column label, but 'breed' beside 0/1 columns such as 'male'; name the colu"
    ):
        placed([{"image": "a", "male": "1", "female": "0", "breed": "pug"}], ["a"])


def test_nested_labels_are_one_class_or_refused() -> None:
    def labels(*values: Any, **layout: str) -> list[str]:
        lines = "\n".join(json.dumps({"path": f"{number}", "label": value}) for number, value in enumerate(values))
        found = placed_by({"labels.jsonl": lines.encode()}, *map(str, range(len(values))), **layout)
        return [label for _, label, *_ in found]

    assert labels(["cat"], "dog") == ["cat", "dog"]
    assert labels({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, label_column="label.name") == ["cat", "dog"]
    with pytest.raises(DataError, match="has no column label or .*, only 'path', 'label.id'; name it with `label_col"):
        labels({"id": 1})
    for odd in (["cat", "dog"], "['cat']", '{"name": "cat"}'):
        with pytest.raises(
            DataError, match="row 1: the label is '.*cat.*'; expected one class; write one class per ro"
        ):
            labels(odd)
    with pytest.raises(DataError, match="row 1: the label is .*1.*2.*; expected one class"):
        labels([1, 2])
    nothing: list[Any] = [float("nan"), [], None]
    for none in nothing:
        with pytest.raises(DataError, match="row 1: no label; add it"):
            labels(none)
    assert labels("[unclear]", "{", "[0, 10]") == ["[unclear]", "{", "[0, 10]"]


@pytest.mark.parametrize("start", ["/home/ann/", "C:\\Users\\ann\\", "https://host/bucket/"])
def test_absolute_paths_of_another_machine_are_found(start: str) -> None:
    rows = [{"path": f"{start}images/{name}", "label": name} for name in ("cats/1.jpg", "dogs/1.jpg")]
    found = placed(rows, ["set/images/cats/1.jpg", "set/images/dogs/1.jpg"])
    assert [(name, label) for name, label, *_ in found] == [
        ("set/images/cats/1.jpg", "cats/1.jpg"),
        ("set/images/dogs/1.jpg", "dogs/1.jpg"),
    ]


@pytest.mark.parametrize("names", [("File Name", "Class Name"), ("img-path", "class_label"), ("FILEPATHS", "classes")])
def test_names_of_columns_may_be_spelled_in_many_ways(names: tuple[str, str]) -> None:
    assert placed([dict(zip(names, ("a.jpg", "cat"), strict=True))], ["a.jpg"])[0][1] == "cat"


def test_paths_of_another_machine_keep_their_split() -> None:
    rows = [{"path": "/data/train/1.jpg", "label": "cat"}]
    assert placed(rows, ["x/train/1.jpg", "x/test/1.jpg"])[0][0] == "x/train/1.jpg"
    with pytest.raises(DataError, match="names 1 image not there"):
        placed(rows, ["x/test/1.jpg"])


def test_escaped_paths_are_found_unless_files_are_called_so() -> None:
    rows = [{"path": "my%20cat.jpg", "label": "cat"}]
    assert placed(rows, ["x/my cat.jpg"])[0][0] == "x/my cat.jpg"
    assert placed(rows, ["x/my cat.jpg", "x/my%20cat.jpg"])[0][0] == "x/my%20cat.jpg"
    with pytest.raises(DataError, match=r"names 1 image not there .such as 'my%20cat.jpg'."):
        placed(rows, ["x/cat.jpg"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_powershell_are_read(encoding: str) -> None:
    assert placed_by({"labels.csv": "path,label\na.jpg,Café\n".encode(encoding)}, "a.jpg")[0][1] == "Café"


def test_lines_of_separators_alone_are_no_rows() -> None:
    assert len(placed_by({"labels.csv": b"path,label\na.jpg,cat\n,\n,\n"}, "a.jpg")) == 1


@pytest.mark.parametrize("key", ["path", "label", "split"])
def test_a_named_column_that_is_missing_is_refused(key: str) -> None:
    typo: dict[str, Any] = {f"{key}_column": "typo"}
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
    assert placed(renamed, split_column="fold") == [("b/c.jpg", "dog", "val", {})]
    assert placed([{"x": "a.jpg", "y": "cat"}], path_column="x", label_column="y") == [("a.jpg", "cat", None, {})]


def test_paths_are_relative_to_the_table() -> None:
    rows = [ROWS[0], ROWS[1] | {"path": "../images/a.jpg"}, ROWS[1] | {"path": "x/../c.jpg"}]
    found = placed_by({"set/labels.csv": csv_of(rows)}, "images/", "set/c.jpg", "images/a.jpg", "set/a.jpg")
    assert [name for name, *_ in found] == ["set/a.jpg", "images/a.jpg", "set/c.jpg"]


@pytest.mark.parametrize(
    ("table", "path", "names", "expected"),
    [
        ("meta/labels.csv", "images/1.jpg", ["images/1.jpg"], "images/1.jpg"),  # from the top
        ("labels.csv", "1.jpg", ["photos/deep/1.jpg", "photos/2.jpg"], "photos/deep/1.jpg"),
        ("labels.csv", "1", ["photos/1.jpg", "1.txt"], "photos/1.jpg"),  # without its suffix
        ("labels.csv", "1.png", ["images/1.png", "masks/1.png"], "images/1.png"),
        ("labels.csv", "1.png", ["images/1.png", "train_segmentation/1.png"], "images/1.png"),
        ("labels.csv", "masks/1.png", ["images/1.png", "masks/1.png"], "masks/1.png"),
        ("labels.csv", "e\u0301.png", ["images/\u00e9.png"], "images/\u00e9.png"),
    ],
)
def test_images_are_found_wherever_paths_start(table: str, path: str, names: list[str], expected: str) -> None:
    ((name, *_),) = placed_by({table: csv_of([{"path": path, "label": "cat"}])}, *names)
    assert name == expected


def test_scattered_images_are_found_by_their_own_names() -> None:
    rows = [{"image_id": "1", "label": "cat"}, {"image_id": "2", "label": "dog"}]
    found = placed_by({"labels.csv": csv_of(rows)}, "part1/1.jpg", "part2/2.jpg", "masks/1.png")
    assert [name for name, *_ in found] == ["part1/1.jpg", "part2/2.jpg"]


def test_a_path_in_two_directories_needs_a_root() -> None:
    table = {"labels.csv": csv_of([{"path": "1.jpg", "label": "cat"}])}
    with pytest.raises(DataError, match="names images that are in 'left' and in 'right'; set `root` in the layout"):
        placed_by(table, "left/1.jpg", "right/1.jpg")
    assert [name for name, *_ in placed_by(table, "left/1.jpg", "right/1.jpg", root="right")] == ["right/1.jpg"]
    with pytest.raises(DataError, match=r"such as 'up/1.jpg'.; add them, or correct the paths, .* relative to `root`"):
        placed_by(table, "left/1.jpg", root="up")


def test_a_table_of_a_split_names_no_images_of_another() -> None:
    table = {"train.csv": csv_of([{"id": "1", "label": "cat"}])}
    assert [name for name, *_ in placed_by(table, "data/train/1.jpg", "data/test/1.jpg")] == ["data/train/1.jpg"]
    with pytest.raises(DataError, match="train.csv names 1 image not there .* relative to the table, or to `root` of"):
        placed_by(table, "train/2.jpg", "test/1.jpg")
    assert placed_by(table, "train/2.jpg", "test/1.jpg", root="test")[0][0] == "test/1.jpg"


@pytest.mark.parametrize(("held_out", "split"), [("val.csv", "val"), ("fold0_test.csv", "test")])
def test_tables_of_all_splits_may_name_images_in_train(held_out: str, split: str) -> None:
    tables = {name: csv_of([{"path": f"{n}.jpg", "label": "cat"}]) for n, name in enumerate(("train.csv", held_out))}
    found = placed_by(tables, "train/0.jpg", "train/1.jpg")
    assert [(name, split) for name, _, split, _ in found] == [("train/0.jpg", "train"), ("train/1.jpg", split)]
    del tables["train.csv"]
    assert placed_by(tables, "train/1.jpg", f"{split}/1.jpg")[0][0] == f"{split}/1.jpg"
    with pytest.raises(DataError, match="names images that are in 'a/train' and in 'b/train'; set `root`"):
        placed_by(tables, "a/train/1.jpg", "b/train/1.jpg")


def test_files_that_differ_in_suffix_are_not_guessed() -> None:
    with pytest.raises(DataError, match="names 1 image not there"):
        placed_by({"labels.csv": csv_of([{"path": "1", "label": "cat"}])}, "1.jpg", "1.png")


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("Train/meta.csv", "testing/meta.csv")])
def test_the_names_of_tables_say_the_split_where_no_column_does(names: tuple[str, str]) -> None:
    tables = {name: csv_of([{"path": path, "label": path}]) for name, path in zip(names, "ab", strict=True)}
    folders = [name.rpartition("/")[0] for name in names]
    files = [f"{folder}/{path}" if folder else path for folder, path in zip(folders, "ab", strict=True)]
    assert [split for _, _, split, _ in placed_by(tables, *files)] == ["train", "test"]


def test_a_table_that_is_of_no_split_beside_others_is_refused() -> None:
    tables = {name: csv_of([{"path": "a", "label": "x"}]) for name in ("train.csv", "test.csv", "more.csv")}
    with pytest.raises(DataError, match="'more.csv' is of no split, as 'train.csv' is by its name; rename or remove"):
        placed_by(tables, "a")


def test_an_image_in_two_tables_is_refused() -> None:
    tables = {name: csv_of([{"path": "a", "label": "x"}]) for name in ("one.csv", "two.csv")}
    with pytest.raises(DataError, match="two.csv, row 2: 'a' is named in row 2 of 'one.csv' too; keep one of them"):
        placed_by(tables, "a")


@pytest.mark.parametrize("path", ["../a.jpg", "x/../../a.jpg", "/b.jpg", "b", "b/.."])
def test_a_path_that_is_no_file_of_the_dataset_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="names 1 image not there .*; add them, or correct the paths"):
        placed([{"path": path, "label": "cat"}], ["a.jpg", "b/", "b/c.jpg"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "labels.csv has no rows; expected one per image"),
        (
            [{"a": "1", "label": "cat"}],
            "has no column path or file or filename, only 'a', 'label'; name it with `path_",
        ),
        (
            [{"path": "a.jpg", "b": "cat"}],
            "has no column label or labels or class, only 'path', 'b'; name",
        ),
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
        (
            "labels.xlsx",
            b"PK",
            "labels.xlsx is not a table; expected a file that ends with .csv, .tsv, .jsonl, .parquet",
        ),
        ("t.csv", b"path,label\n\xff,1\n", "t.csv is not UTF-8 (byte 11); save it as UTF-8"),
        ("t.csv", b"path,label\na,b,c\n", "t.csv, row 2: more values than the header has names; quote values with ','"),
        ("t.csv", b'path,label\n"a,b\n', "t.csv cannot be read: unexpected end of data"),
        ("t.jsonl", b'{"path": "a"}\n[1]\n', "t.jsonl, line 2 is not a JSON object"),
        ("t.jsonl", b'\n[["path", "a"], ["label", "b"]]\n', "t.jsonl, line 2 is not a JSON object"),
        ("t.jsonl", b'{"path": "a"', "t.jsonl, line 1 is not a JSON object"),
        ("t.jsonl", b"[" * 100_000, "t.jsonl, line 1 is not a JSON object"),
        ("t.csv", b"path,label\n\n\na,b,c\n", "t.csv, row 4: more values than the header has names"),
        ("t.parquet", b"PAR1", "t.parquet cannot be read: "),
        ("t.csv", b"path,label, label\na,b,c\n", "t.csv has two columns 'label'; rename one or take it out"),
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
