"""Parquet shards with the images in them, as the Hugging Face hub keeps datasets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.data.raw.layouts import RawImage, Unread, oversized, read_images
from darkroom.data.raw.listing import listing_of_files
from darkroom.data.raw.shards import listing_of_rows, place_in_shards
from darkroom.errors import DataError
from tests.support.raw_files import write_manifest, write_tar, write_zip

NAMES = ["cat", "dog"]


def shard(
    path: Path, labels: Sequence[Any], *, names: Sequence[str] | None = NAMES, first: int = 0, **columns: list[Any]
) -> Path:
    """Write a shard of images whose bytes are their numbers."""
    images = [{"bytes": f"image {first + row}".encode(), "path": f"{first + row}.png"} for row in range(len(labels))]
    table = pa.table({"image": images, "label": list(labels), **columns})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def read(directory: Path, *, limit: int = 10**6, most: int = 100, only: Any = None, **layout: Any) -> list[RawImage]:
    write_manifest(directory, {"kind": "parquet", **layout})
    return list(read_images(directory, max_archive_bytes=limit, max_image_bytes=most, only=only))


def test_rows_have_names_classes_splits_and_their_other_columns(tmp_path: Path) -> None:
    shard(tmp_path / "train-00000-of-00002.parquet", [0, 1], site=["A", None])
    shard(tmp_path / "train-00001-of-00002.parquet", [1], first=2, site=["B"])
    shard(tmp_path / "test-00000-of-00001.parquet", [0], first=3, site=["A"])
    assert [(image.name, image.label, image.split, image.data, image.attributes) for image in read(tmp_path)] == [
        ("train-00000-of-00002/00000/0.png", "cat", "train", b"image 0", {"site": "A"}),
        ("train-00000-of-00002/00001/1.png", "dog", "train", b"image 1", {"site": ""}),
        ("train-00001-of-00002/00000/2.png", "dog", "train", b"image 2", {"site": "B"}),
        ("test-00000-of-00001/00000/3.png", "cat", "test", b"image 3", {"site": "A"}),
    ]


@pytest.mark.parametrize("name", ["hub.zip", "hub.tar", "hub.tar.gz"])
def test_shards_may_lie_in_an_archive(tmp_path: Path, name: str) -> None:
    shard(tmp_path / "parts/train.parquet", [0, 1] * 5)
    shard(tmp_path / "parts/validation.parquet", [1, 0], first=10)
    files = {f"data/{path.name}": path.read_bytes() for path in sorted((tmp_path / "parts").iterdir())}
    (tmp_path / "raw").mkdir()
    if name.endswith("zip"):
        write_zip(tmp_path / "raw" / name, files)
    else:
        write_tar(tmp_path / "raw" / name, dict(files), mode="w:gz" if name.endswith("gz") else "w")
    images = read(tmp_path / "raw")
    assert [image.data for image in images] == [f"image {number}".encode() for number in range(12)]
    assert [image.split for image in images] == ["train"] * 10 + ["val"] * 2


def test_some_rows_are_read_without_the_others(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [0, 1] * 5)
    shard(tmp_path / "b.parquet", [0, 1] * 5, first=10)
    every = read(tmp_path)
    wanted = {every[number].name for number in (0, 4, 9, 10, 19)}
    assert [image.data for image in read(tmp_path, only=wanted)] == [
        b"image 0", b"image 4", b"image 9", b"image 10", b"image 19"
    ]  # fmt: skip


def test_a_column_may_say_class_and_split_of_each_row(tmp_path: Path) -> None:
    pictures = [b"1", b"2", b"3"]
    table = pa.table({"scan": pictures, "species": ["cat", "dog", "cat"], "subset": ["test", "train", "train"]})
    pq.write_table(table, tmp_path / "all.parquet")
    images = read(tmp_path, label_column="species")
    assert [(image.name, image.label, image.split, image.data) for image in images] == [
        ("all/00001", "dog", "train", b"2"),
        ("all/00002", "cat", "train", b"3"),
        ("all/00000", "cat", "test", b"1"),
    ]


@pytest.mark.parametrize(
    ("column", "values", "layout", "expected"),
    [
        ("Usage", ["Training", "PublicTest"], {}, ["train", "test"]),
        ("usage", ["day", "night"], {}, [None, None]),
        ("is_valid", [False, True], {}, [None, None]),
        ("is_valid", [False, True], {"split_column": "is_valid"}, [None, "val"]),
    ],
)
def test_columns_of_splits_are_those_of_tables(
    tmp_path: Path, column: str, values: list[Any], layout: dict[str, Any], expected: list[str | None]
) -> None:
    columns: dict[str, Any] = {column: [*values, values[0]]}
    shard(tmp_path / "x.parquet", [0, 0, 1], **columns)
    found = {image.name[:7]: image.split for image in read(tmp_path, **layout)}
    assert [found["x/00000"], found["x/00001"]] == expected


def test_a_row_may_lack_its_image_or_hold_too_large_a_one(tmp_path: Path) -> None:
    images = [{"bytes": bytes(101), "path": None}, {"bytes": None, "path": "2.png"}, {"bytes": b"3", "path": None}]
    pq.write_table(pa.table({"image": images, "label": ["a", "b", "a"]}), tmp_path / "x.parquet")
    absent = Unread("the shard has no bytes of it, only a path")
    assert [image.data for image in read(tmp_path)] == [oversized(101), absent, b"3"]


def test_rows_may_be_read_as_files_in_any_order(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [0, 1] * 5)
    images = [{"bytes": b"last", "path": None}, {"bytes": None, "path": "2.png"}]
    pq.write_table(pa.table({"image": images, "label": ["cat", "dog"]}), tmp_path / "b.parquet")
    shards = listing_of_files(tmp_path, [(name, tmp_path / name, False) for name in ("a.parquet", "b.parquet")])
    placed = place_in_shards(shards, {"kind": "parquet"}, max_archive_bytes=10**6)
    rows = listing_of_rows(shards, {"kind": "parquet"}, placed)
    assert [name for name, _ in rows.names] == [image.name for image in placed]
    for number in (3, 3, 9, 0, 4, 8):
        assert (rows.read(number), rows.n_bytes(number)) == (f"image {number}".encode(), 7)
        assert rows.open(number).read(5) == b"image"
    assert (rows.read(10), rows.unread(10), rows.n_bytes(11)) == (b"last", None, 0)
    assert rows.unread(11) == "the shard has no bytes of it, only a path"
    with pytest.raises(DataError, match="b/00001/2.png: the shard has no bytes of it, only a path"):
        rows.read(11)


def test_rows_without_images_are_known_after_one_pass(tmp_path: Path) -> None:
    images = [{"bytes": None if row % 2 else b"1", "path": str(row)} for row in range(8)]
    pq.write_table(pa.table({"image": images, "label": ["cat", "dog"] * 4}), tmp_path / "x.parquet")
    shards = listing_of_files(tmp_path, [("x.parquet", tmp_path / "x.parquet", False)])
    placed = place_in_shards(shards, {"kind": "parquet"}, max_archive_bytes=10**6)
    rows = listing_of_rows(shards, {"kind": "parquet"}, placed)
    absent = [rows.unread(number) is not None for number in range(8)]
    (tmp_path / "x.parquet").unlink()
    assert [rows.unread(number) is not None for number in range(8)] == absent == [False, True] * 4
    assert [rows.n_bytes(number) for number in range(8)] == [1, 0] * 4


@pytest.mark.parametrize(
    ("labels", "names", "layout", "message"),
    [
        ([0, -1], NAMES, {}, "x.parquet, row 2: no label; add it, or name the file in `skip` of the layout"),
        ([0, 2], NAMES, {}, "x.parquet, row 2: the label is 2, but the classes are 0 to 1"),
        ([[0], [1, 0]], None, {}, "x.parquet, row 1: the label is list; expected one label per image"),
        (["cat", "Cat"], None, {}, "'Cat' and 'cat' differ only in case"),
        (["cat", "cat"], None, {}, "only one class, 'cat'"),
        (
            ["a", "b"],
            None,
            {"label_column": "breed"},
            "has no column breed, only 'image', 'label'; name it with `label",
        ),
        (["a", "b"], None, {"image_column": "scan"}, "has no column scan, only 'image'; name it with `image_column`"),
        (["a", "b"], None, {"split_column": "label"}, "row 1: the split is 'a'; expected train, val"),
        (["a", "b"], None, {"skip": ["y.parquet"]}, "nothing is called 'y.parquet'; correct `skip` in the layout"),
        (["a", "b"], None, {"skip": ["x.parquet"]}, "no .parquet files; correct the layout"),
    ],
)
def test_shards_that_cannot_be_understood_are_refused(
    tmp_path: Path, labels: list[Any], names: list[str] | None, layout: dict[str, Any], message: str
) -> None:
    shard(tmp_path / "x.parquet", labels, names=names)
    with pytest.raises(DataError, match=message):
        read(tmp_path, **layout)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    whole = shard(tmp_path / "x.parquet", [0, 1] * 5).read_bytes()
    for damaged in (whole[:-20], b"PAR1", whole[:4] + b"\xff" * 40 + whole[44:]):
        (tmp_path / "x.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match="x.parquet cannot be read: "):
            read(tmp_path)


def test_shards_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "x.parquet", [0, 1] * 5)
    with pytest.raises(DataError, match=r"unpack to more than 100 bytes; raise preprocess.max_archive_bytes if you"):
        read(tmp_path, limit=100)
