"""Whether directories or a table say the classes and splits, where a dataset has both."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.errors import DataError
from darkroom.inspection.source import opened


def found(folder: Path, files: Mapping[str, bytes]) -> tuple[str, list[str], dict[str, tuple[str, str | None]]]:
    """Return the kind of the layout of these files, the notes, and class and split of each image by name."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with opened(folder, layout=None, max_archive_bytes=10**6) as source:
        return source.layout["kind"], source.notes, {one.name: (one.label, one.split) for one in source.placed}


def images(*folders: str, n: int = 2) -> dict[str, bytes]:
    return {f"{folder}/{number}.png": b"x" for folder in folders for number in range(n)}


def table(names: Sequence[str], **columns: Any) -> bytes:
    """Return a label table of images; a column is a function of the name, or `label` that of the directory."""
    columns = {"label": lambda name: name.split("/")[-2], **columns}
    rows = [",".join([name, *(str(value(name)) for value in columns.values())]) for name in names]
    return "\n".join([",".join(["path", *columns]), *rows]).encode()


def parquet(**columns: list[Any]) -> bytes:
    pq.write_table(pa.table(columns), buffer := BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize("splits", [("train", "test"), ("seg_train", "seg_test"), ("my_train", "my_val")])
def test_a_table_of_patients_keeps_the_splits_of_directories(tmp_path: Path, splits: tuple[str, str]) -> None:
    files = images(*(f"{split}/{label}" for split in splits for label in ("cats", "dogs")))
    meta = table([*files], patient=lambda name: f"p{name[-5]}")
    kind, notes, placed = found(tmp_path, {**files, "meta.csv": meta})
    assert (kind, notes) == (
        "table",
        ["used: 'meta.csv', with the classes of the directories and the groups, by 'patient'"],
    )
    second = splits[1].split("_")[-1]
    assert {name: split for name, (_, split) in placed.items()} == {
        name: "train" if name.startswith(splits[0]) else second for name in files
    }


def test_a_table_of_validation_images_keeps_the_test_directory(tmp_path: Path) -> None:
    files = images("train/cats", "train/dogs", "test/cats", "test/dogs")
    labels = table([*files], is_valid=lambda name: name.startswith("train") and name.endswith("1.png"))
    kind, _, placed = found(tmp_path, {**files, "labels.csv": labels})
    assert kind == "table"
    assert {split for name, (_, split) in placed.items() if name.startswith("test")} == {"test"}
    assert [name for name, (_, split) in placed.items() if split == "val"] == ["train/cats/1.png", "train/dogs/1.png"]


def test_a_table_that_moves_test_images_into_train_is_not_used(tmp_path: Path) -> None:
    files = images("train/cats", "train/dogs", "test/cats", "test/dogs")
    labels = table([*files], split=lambda name: "val" if name.endswith("1.png") else "train")
    kind, notes, placed = found(tmp_path, {**files, "labels.csv": labels})
    assert (kind, notes) == (
        "folders",
        ["not used: 'labels.csv', which takes test or validation images of the directories"],
    )
    assert {split for name, (_, split) in placed.items() if name.startswith("test")} == {"test"}


def test_other_classes_with_other_splits_are_pointed_out(tmp_path: Path) -> None:
    files = images("train/cats", "train/dogs", "test/cats", "test/dogs")
    breeds = table([*files], label=lambda name: name[-5], split=lambda _: "train")
    kind, notes, _ = found(tmp_path, {**files, "labels.csv": breeds})
    assert kind == "table"
    assert notes == [
        "the classes and the splits are those of 'labels.csv', not the directories",
        "the splits are those of column 'split'",
    ]


ANIMALS = images("cats", "dogs", n=4)
NAMES = [*ANIMALS]


@pytest.mark.parametrize(
    ("tables", "note"),
    [
        (
            {"labels.csv": table(NAMES), "train.csv": table(NAMES[2:6]), "val.csv": table(NAMES[::7])},
            "not used: the label tables; 'train.csv' and 'val.csv' and 'labels.csv' name different images; put",
        ),
        (
            {"test.csv": table(NAMES), "train.csv": table(NAMES[:5])},
            "not used: the label tables; train.csv, row 2: 'cats/0.png' is named in row 2 of 'test.csv' too; keep one",
        ),
        (
            {
                "train.csv": table(NAMES[:6]),
                "test.json": json.dumps(
                    {
                        "images": [{"id": 1, "file_name": NAMES[6]}, {"id": 2, "file_name": NAMES[7]}],
                        "annotations": [{"image_id": n, "category_id": n} for n in (1, 2)],
                        "categories": [{"id": n, "name": str(n)} for n in (1, 2)],
                    }
                ).encode(),
            },
            "not used: the label tables; 'train.csv' and 'test.json' name different images",
        ),
        (
            {"train.csv": table(NAMES[::2]), "test.csv": table(NAMES[1:3:2] + NAMES[5:6])},
            "not used: 'test.csv' and 'train.csv', with only 6 of 8 images; give its path to use it",
        ),
    ],
)
def test_directories_stand_where_tables_do_not_fit(tmp_path: Path, tables: dict[str, bytes], note: str) -> None:
    kind, notes, placed = found(tmp_path, ANIMALS | tables)
    assert kind == "folders"
    assert notes[0].startswith(note)
    assert placed == {name: (name[:4], None) for name in NAMES}


def test_the_column_that_gave_the_splits_is_said(tmp_path: Path) -> None:
    files = images("all", n=4)
    labels = table(
        [*files], label=lambda name: name[-5] in "02", Usage=lambda name: "PublicTest" if name[-5] > "1" else ""
    )
    assert found(tmp_path, {**files, "labels.csv": labels})[1] == ["the splits are those of column 'Usage'"]


@pytest.mark.parametrize("third", ["extra", "cups"])
@pytest.mark.parametrize("held_out", ["test", "val"])  # val beside extra could be a class
def test_a_table_beside_directories_of_splits_is_not_passed_over(tmp_path: Path, third: str, held_out: str) -> None:
    files = images("train", held_out, third)
    labels = table([*files], label=lambda name: name[-5])
    with pytest.raises(
        DataError, match=f"/{third}/0.png' is in no directory of a split|'{third}/0.png' is in no direc"
    ):
        found(tmp_path, {**files, "labels.csv": labels})


def test_no_directory_is_left_out_beside_a_table_with_errors(tmp_path: Path) -> None:
    files = images("left", "right", "test")
    labels = table([*files, "gone.png"], label=lambda name: name[-5])
    with pytest.raises(DataError, match="labels.csv names 1 image not there .*; 'test' beside 'left' holds images"):
        found(tmp_path, {**files, "labels.csv": labels})
    kind, notes, _ = found(tmp_path / "fits", {**images("cats", "dogs"), "labels.csv": labels})
    assert kind == "folders"
    assert notes[0].startswith("not used: 'labels.csv'; labels.csv names 7 images not there")


def test_a_table_of_one_class_says_no_classes(tmp_path: Path) -> None:
    files = images("cats", "dogs", "test")
    answers = table(["test/0.png", "test/1.png"], label=lambda _: "0")
    kind, notes, placed = found(tmp_path, {**files, "test.csv": answers})
    assert (kind, notes) == ("folders", ["'test' left out: no images of classes"])
    assert {label for label, _ in placed.values()} == {"cats", "dogs"}


def test_words_of_splits_in_names_of_classes_are_no_splits(tmp_path: Path) -> None:
    files = images("training_shoes", "test_tubes", "cups")
    labels = table([*files], label=lambda name: "lab" if "tubes" in name or name.endswith("cups/1.png") else "shoes")
    kind, _, placed = found(tmp_path, {**files, "labels.csv": labels})
    assert kind == "table"
    assert {*placed.values()} == {("shoes", None), ("lab", None)}


def test_parquet_without_images_is_left_out_beside_shards(tmp_path: Path) -> None:
    files = {"train.parquet": parquet(image=[b"x"] * 2, label=["a", "b"]), "metadata.parquet": parquet(id=["1"])}
    kind, notes, placed = found(tmp_path, files)
    assert (kind, notes) == ("parquet", ["'metadata.parquet' left out: no images in it"])
    assert [label for label, _ in placed.values()] == ["a", "b"]
    same = {
        f"train/0.{end}": content
        for end, content in zip(("parquet", "txt"), (files["train.parquet"], b""), strict=True)
    }
    with pytest.raises(DataError, match="meta/0.parquet has no images; name it in `skip` of the layout"):
        found(tmp_path / "same", {**same, "meta/0.parquet": files["metadata.parquet"]})


def test_a_parquet_file_with_other_bytes_is_no_shard(tmp_path: Path) -> None:
    vectors = {"vectors.parquet": parquet(path=NAMES, vector=[None, *[b"abc"] * 7])}
    assert found(tmp_path / "one", ANIMALS | vectors)[:2] == ("folders", [])
    flat = {f"images/{number}.png": b"x" for number in range(4)}
    labels = parquet(path=[*flat], label=["a", "b", "a", "b"], md5=[b"q"] * 4)
    kind, _, placed = found(tmp_path / "two", {**flat, "labels.parquet": labels})
    assert (kind, [label for label, _ in placed.values()]) == ("table", ["a", "b", "a", "b"])
    for column, content in (("image", b"x"), ("scan", b"\x89PNG\r\n")):
        shard = parquet(label=["a", "b"], **{column: [None, content]})
        assert found(tmp_path / column, {"data.parquet": shard})[0] == "parquet"


@pytest.mark.parametrize(
    "files",
    [
        images("cats/a", "cats/test", "dogs"),
        images("cats/a", "cats/test", "dogs/b", "dogs/val"),
        images("cats", "cats/val", "dogs"),
        images("cats/train", "cats/test", "dogs"),
        images("train/cats", "train/cats/val", "train/dogs", "test/cats", "test/dogs"),
    ],
)
def test_images_in_a_class_are_not_left_out_as_a_test_set(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match="seems to be a part of a split that other images have no part in"):
        found(tmp_path, files)


@pytest.mark.parametrize("beside", [("cats", "dogs"), ("train/cats", "train/dogs"), ("a/cats", "a/dogs")])
def test_a_test_set_without_classes_is_left_out(tmp_path: Path, beside: tuple[str, ...]) -> None:
    above = "a/" if beside[0].startswith("a/") else ""
    kind, notes, placed = found(tmp_path, images(*beside, f"{above}test"))
    assert (kind, notes) == ("folders", ["'test' left out: no images of classes"])
    assert {label for label, _ in placed.values()} == {"cats", "dogs"}
