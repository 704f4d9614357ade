"""Label tables as COCO and Label Studio write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.data.raw.exports import export_kind
from darkroom.data.raw.labels import placed_in
from darkroom.data.raw.listing import listing_of_files
from darkroom.errors import DataError
from tests.support.raw_files import write_folder

COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "1.jpg", "width": 640, "license": 1},
        {"id": 3, "file_name": "2.jpg", "width": 320, "flickr": {"a": 1}},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4]},
        {"image_id": 7, "category_id": 18},
        {"image_id": 3, "category_id": 17},
    ],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
}


def placed(folder: Path, content: Any, *files: str, **layout: Any) -> list[Any]:
    write_folder(folder, *files)
    (folder / "labels.json").write_text(json.dumps(content))
    found = [*files, "labels.json"]
    listing = listing_of_files(Path("data"), [(name, folder / name, False) for name in found])
    images = placed_in(listing, {"table": "labels.json", **layout}, max_archive_bytes=10**6)
    return [(image.name, image.label, image.split, image.attributes) for image in images]


def task(image: str, *choices: str, field: str = "species", **data: Any) -> dict[str, Any]:
    """Return a task of Label Studio as its JSON export has it, with one annotation."""
    result = {"type": "choices", "from_name": field, "to_name": "image", "value": {"choices": list(choices)}}
    return {"id": 1, "data": {"image": image, **data}, "annotations": [{"result": [result], "was_cancelled": False}]}


def studio(folder: Path, tasks: list[Any], *files: str, **layout: Any) -> list[tuple[str, str]]:
    return [(name, label) for name, label, *_ in placed(folder, tasks, *files, kind="label_studio", **layout)]


def test_coco_gives_each_image_its_category_and_fields(tmp_path: Path) -> None:
    assert placed(tmp_path, COCO, "images/1.jpg", "images/2.jpg", kind="coco") == [
        ("images/1.jpg", "dog", None, {"id": "7", "width": "640", "license": "1"}),
        ("images/2.jpg", "cat", None, {"id": "3", "width": "320", "license": ""}),
    ]
    texts = COCO | {"images": [{**image, "id": str(image["id"])} for image in COCO["images"]]}
    found = placed(tmp_path, texts, "images/1.jpg", "images/2.jpg", kind="coco")
    assert [label for _, label, *_ in found] == ["dog", "cat"]


def test_a_field_of_coco_may_say_the_split(tmp_path: Path) -> None:
    said = COCO | {"images": [image | {"is_test": image["id"] == 3} for image in COCO["images"]]}
    found = placed(tmp_path, said, "train/1.jpg", "more/2.jpg", kind="coco", split_column="is_test")
    assert [split for _, _, split, _ in found] == [None, "test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": [*COCO["annotations"], {"image_id": 7, "category_id": 17}]},
            r"labels.json: 1 of 2 images have several labels; keep one .such as '1.jpg .cat, dog.'",
        ),
        (
            {"annotations": COCO["annotations"][:2]},
            "1 of 2 images have no label; label them, or take .*such as '2.jpg'",
        ),
        ({"categories": [{"id": 17, "name": "cat"}]}, "labels.json is damaged: nothing is '18'; export it again"),
        ({"images": [{"id": 7}]}, "labels.json is damaged: nothing is 'file_name'"),
        ({"images": None}, "labels.json is not COCO; expected an object with images, annotations and categories"),
    ],
)
def test_a_coco_file_that_is_of_no_use_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        placed(tmp_path, {**COCO, **changes}, "1.jpg", "2.jpg", kind="coco")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/data/upload/4/0a1b2c3d-1.jpg", "/data/upload/4/99aabbcc-2.jpg"),
        ("/data/local-files/?d=shop/photos/1.jpg", "/data/local-files/?d=shop/photos/2.jpg"),
        ("s3://bucket/shop/photos/1.jpg", "s3://bucket/shop/photos/2.jpg"),
        ("https://shop.invalid/photos/1.jpg?x=1", "https://shop.invalid/photos/2.jpg"),
        ("photos/1.jpg", "photos/2.jpg"),
    ],
)
def test_label_studio_names_images_in_many_ways(tmp_path: Path, first: str, second: str) -> None:
    tasks = [task(first, "cat", site="A"), task(second, "dog")]
    files = ("photos/1.jpg", "photos/2.jpg")
    images = placed(tmp_path, tasks, *files, kind="label_studio")
    assert [(name, label) for name, label, *_ in images] == [("photos/1.jpg", "cat"), ("photos/2.jpg", "dog")]
    assert [attributes["site"] for *_, attributes in images] == ["A", ""]


def test_label_studio_counts_truth_and_no_cancelled_work(tmp_path: Path) -> None:
    tasks = [task("1.jpg", "cat"), task("2.jpg", "dog")]
    tasks[0]["annotations"] += [{**task("", "dog")["annotations"][0], "was_cancelled": True}]
    tasks[1]["annotations"] += [{**task("", "cat")["annotations"][0], "ground_truth": True}]
    assert studio(tmp_path, tasks, "1.jpg", "2.jpg") == [("1.jpg", "cat"), ("2.jpg", "cat")]


def test_label_studio_writes_a_short_form_too(tmp_path: Path) -> None:
    tasks = [
        {"id": 1, "image": "1.jpg", "choice": "cat", "annotator": 1},
        {"id": 2, "image": "2.jpg", "choice": "dog", "annotator": 1},
    ]
    assert studio(tmp_path, tasks, "1.jpg", "2.jpg") == [("1.jpg", "cat"), ("2.jpg", "dog")]


def test_of_several_choices_the_layout_names_one(tmp_path: Path) -> None:
    tasks = [task("1.jpg", "cat"), task("2.jpg", "dog")]
    for one in tasks:
        one["annotations"][0]["result"] += task("", "good", field="quality")["annotations"][0]["result"]
    with pytest.raises(DataError, match="only 'species', 'quality'; name it with `label_column` in the layout"):
        studio(tmp_path, tasks, "1.jpg", "2.jpg")
    found = studio(tmp_path, tasks, "1.jpg", "2.jpg", label_column="species")
    assert [label for _, label in found] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"a": 1}, "labels.json is not an export of Label Studio; expected a list of tasks, as JSON or JSON-MIN"),
        ([], "labels.json is not an export of Label Studio"),
        ([task("1.jpg", "cat"), task("2.jpg", "cat", "dog")], "1 of 2 images have several labels; keep one"),
        ([task("1.jpg", "cat"), {**task("2.jpg", "x"), "annotations": []}], "1 of 2 images have no label"),
        ([task("1.jpg", "cat"), task("3.jpg", "cat")], "labels.json names 1 image not there .such as '3.jpg'"),
        ([{**task("1.jpg", "x"), "annotations": []}], "labels.json: no task has a choice; label them in Label Studio"),
        ([{"id": 5, "data": {"image": "1.jpg"}, "annotations": [{}]}], "task 5 lacks 'result'; export it again"),
        ([{"id": 5, "data": {"text": "a"}, "annotations": []}], "has no column path or .*; name it with `path_column`"),
    ],
)
def test_an_export_that_is_of_no_use_is_refused(tmp_path: Path, tasks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        studio(tmp_path, tasks, "1.jpg", "2.jpg")


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"images": ' + b"1" * 5000 + b"}", b"\xff", b"[]", b"{}"])
def test_json_of_another_kind_is_no_export(data: bytes) -> None:
    assert export_kind(data) is None


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_bytes(b"path,label\n\xff")
    listing = listing_of_files(Path("data"), [("labels.json", tmp_path / "labels.json", False)])
    with pytest.raises(DataError, match="data: labels.json is not JSON: "):
        placed_in(listing, {"kind": "coco", "table": "labels.json"}, max_archive_bytes=10**6)
