"""A dataset as a stream of labelled images: whatever holds it, the same names, labels, pixels and order."""

import json
import os
import pickle
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.data.raw.layouts import RawImage, Unread, list_folder, oversized, read_folder, read_images
from darkroom.errors import DataError
from tests.support.project import ROOT
from tests.support.raw_files import pixels, write_folder, write_idx, write_manifest, write_tar, write_zip

LIMIT = 10_000_000


def read(directory: Path, max_image_bytes: int = 1000) -> list[RawImage]:
    return list(read_images(directory, max_archive_bytes=LIMIT, max_image_bytes=max_image_bytes))


def raw(directory: Path, layout: str | dict[str, Any], files: dict[str, bytes], name: str = "data.zip") -> Path:
    directory.mkdir(exist_ok=True)
    (write_zip if name.endswith("zip") else write_tar)(directory / name, files)
    return write_manifest(directory, layout)


# Arrays


def test_mnist_as_npz_and_as_idx_gives_identical_images(tmp_path: Path) -> None:
    data: dict[str, Any] = {"x_train": pixels(500, 28, 28), "y_train": pixels(500, seed=1) % 10}
    data |= {"x_test": pixels(90, 28, 28, seed=2), "y_test": pixels(90, seed=3) % 10}
    write_idx(tmp_path / "idx", **data)
    write_idx(tmp_path / "gz", compressed=True, **data)
    (tmp_path / "npz").mkdir()
    np.savez_compressed(tmp_path / "npz/mnist.npz", **data)
    streams = [
        [
            (image.name, image.label, image.split, image.data.shape, image.data.tobytes())
            for image in read(write_manifest(tmp_path / folder, layout))
            if isinstance(image.data, np.ndarray)
        ]
        for folder, layout in (("idx", "idx"), ("gz", "idx"), ("npz", "npz"))
    ]
    assert streams[0] == streams[1] == streams[2]
    assert [streams[0][i][:3] for i in (0, 499, 500, 589)] == [
        ("train/00000", str(data["y_train"][0]), "train"),
        ("train/00499", str(data["y_train"][499]), "train"),
        ("test/00000", str(data["y_test"][0]), "test"),
        ("test/00089", str(data["y_test"][89]), "test"),
    ]


def test_arrays_without_an_official_test_set_bring_no_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", images=pixels(3, 8, 8), labels=np.array([4, 5, 4]))
    images = read(write_manifest(tmp_path, "npz"))
    assert [(image.name, image.label, image.split) for image in images] == [
        ("00000", "4", None),
        ("00001", "5", None),
        ("00002", "4", None),
    ]


def test_cifar_images_are_numbered_over_their_batches(tmp_path: Path) -> None:
    files = {f"data_batch_{i}": {"data": pixels(2, 3072, seed=i), "labels": [0, 1]} for i in (1, 2)}
    files["test_batch"] = {"data": pixels(1, 3072), "labels": [1]}
    write_tar(tmp_path / "cifar.tar", {f"x/{name}": pickle.dumps(value, 2) for name, value in files.items()})
    images = read(write_manifest(tmp_path, {"kind": "cifar", "classes": ["cat", "dog"]}), max_image_bytes=3072)
    assert [(image.name, image.label) for image in images] == [
        ("train/00000", "cat"),
        ("train/00001", "dog"),
        ("train/00002", "cat"),
        ("train/00003", "dog"),
        ("test/00000", "dog"),
    ]
    pixels_of_first: Any = images[0].data
    assert pixels_of_first.shape == (32, 32, 3)


def test_arrays_of_images_that_are_too_big_are_not_handed_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(2, 8, 8), labels=np.arange(2))
    images = read(write_manifest(tmp_path, "npz"), max_image_bytes=63)
    assert [image.data for image in images] == [oversized(64), oversized(64)]


def test_arrays_of_one_class_or_none_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(2, 8, 8), labels=np.array([7, 7]))
    with pytest.raises(DataError, match="found only one class, '7'; a classifier needs two"):
        read(write_manifest(tmp_path, "npz"))
    np.savez(tmp_path / "a.npz", images=pixels(0, 8, 8), labels=np.arange(0))
    with pytest.raises(DataError, match="found no images"):
        read(write_manifest(tmp_path, "npz"))


# Folders in archives

PETS = {"dogs/b.jpg": b"1", "cats/a.jpg": b"2", "cats/deep/er/a.jpg": b"3"}


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
def test_folders_keep_the_archives_order_and_nested_their_class(tmp_path: Path, name: str) -> None:
    assert read(raw(tmp_path, "folders", PETS, name)) == [
        RawImage("dogs/b.jpg", "dogs", None, b"1"),
        RawImage("cats/a.jpg", "cats", None, b"2"),
        RawImage("cats/deep/er/a.jpg", "cats", None, b"3"),
    ]


def test_train_val_and_test_come_in_this_order(tmp_path: Path) -> None:
    files = {f"{split}/{label}/1.jpg": b"x" for split in ("test", "valid", "train") for label in ("cats", "dogs")}
    images = read(raw(tmp_path, "folders", files))
    assert [(image.name, image.label, image.split) for image in images] == [
        ("train/cats/1.jpg", "cats", "train"),
        ("train/dogs/1.jpg", "dogs", "train"),
        ("valid/cats/1.jpg", "cats", "val"),
        ("valid/dogs/1.jpg", "dogs", "val"),
        ("test/cats/1.jpg", "cats", "test"),
        ("test/dogs/1.jpg", "dogs", "test"),
    ]


def test_unicode_space_and_newline_in_names_are_kept(tmp_path: Path) -> None:
    files = {"große Hunde/ä b\n.jpg": b"1", "猫/1.jpg": b"2"}
    for name in ("a.zip", "a.tar"):
        directory = raw(tmp_path / name[2:], "folders", files, name)
        assert [(image.name, image.label) for image in read(directory)] == [
            ("große Hunde/ä b\n.jpg", "große Hunde"),
            ("猫/1.jpg", "猫"),
        ]


def test_an_image_with_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    images = read(raw(tmp_path, "folders", {"cats/a.jpg": bytes(1001), "dogs/a.jpg": bytes(1000)}))
    assert [image.data for image in images] == [oversized(1001), bytes(1000)]


def test_only_the_root_that_the_layout_names_is_looked_at(tmp_path: Path) -> None:
    files = {"PetImages/Cat/1.jpg": b"1", "PetImages/Dog/1.jpg": b"2", "PetImages/Dog/Thumbs.db": b"", "cat.gif": b""}
    assert [image.name for image in read(raw(tmp_path, {"kind": "folders", "root": "PetImages"}, files))] == [
        "Cat/1.jpg",
        "Dog/1.jpg",
    ]
    with pytest.raises(DataError, match="no such directory: 'Pets'; correct `root` in the layout"):
        read(raw(tmp_path, {"kind": "folders", "root": "Pets"}, files))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b""}, "no images found; expected <class>/<image>"),
        ({"pets/cats/1": b"", "pets/cats/2": b""}, "only one class, 'cats'; a classifier needs two"),
        ({"train/a/1": b"", "train/b/1": b"", "test/c/1": b""}, "class 'c' has images only in test"),
        ({"train/a/1": b"", "train/b/1": b"", "val/a/1": b"", "val/c/1": b""}, "class 'c' has images only in val"),
    ],
)
def test_folders_that_nothing_can_be_learnt_from_are_refused(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(raw(tmp_path, "folders", files))


# What is incomplete


def test_a_folder_that_is_not_whole_is_refused_at_once(tmp_path: Path) -> None:
    def attempt() -> None:
        read_images(tmp_path, max_archive_bytes=1, max_image_bytes=1)

    with pytest.raises(DataError, match=r"is incomplete; run `dvc repro download` \(no valid manifest.json\)"):
        attempt()
    raw(tmp_path, "folders", PETS)
    whole = (tmp_path / "manifest.json").read_text()
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"\(data.zip is missing or does not have [\d,]+ bytes\)"):
        attempt()
    for damaged in (whole[:-3], "[]", json.dumps({"files": []})):
        (tmp_path / "manifest.json").write_text(damaged)
        with pytest.raises(DataError, match="is incomplete"):
            attempt()


def test_a_layout_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown layout 'webdataset'"):
        read(raw(tmp_path, "webdataset", PETS))


# Folders on disk


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    write_folder(tmp_path, "dogs/b.jpg", "cats/z/a.jpg", "cats/a b.jpg", "cats/.hidden", ".gitkeep", "README.md")
    images = list(read_folder(list_folder(tmp_path), max_image_bytes=1000))
    assert [(image.name, image.label, image.split) for image in images] == [
        ("cats/a b.jpg", "cats", None),
        ("cats/z/a.jpg", "cats", None),
        ("dogs/b.jpg", "dogs", None),
    ]
    assert images[0].data == b"content of cats/a b.jpg"


def test_what_dvc_add_writes_beside_a_class_folder_is_no_image(tmp_path: Path) -> None:
    write_folder(tmp_path, "cats/a.jpg", "cats.dvc", ".gitignore", "README.md")
    assert [image.name for image in read_folder(list_folder(tmp_path), max_image_bytes=1000)] == ["cats/a.jpg"]


def test_new_images_are_ignored_by_git_and_their_dvc_files_not() -> None:
    root = ROOT
    paths = ["data/incoming/cats/a.jpg", "data/incoming/cats/deep/a.jpg"]
    kept = ["data/incoming/cats.dvc", "data/incoming/README.md", "data/incoming/.gitignore"]
    command = ["git", "check-ignore", "--no-index", *paths, *kept]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.split() == paths


def test_a_drop_folder_may_be_empty_or_hold_one_class(tmp_path: Path) -> None:
    assert list(read_folder(list_folder(tmp_path), max_image_bytes=10)) == []
    (tmp_path / "dogs").mkdir()
    write_folder(tmp_path, "cats/a.jpg")
    assert [image.data for image in read_folder(list_folder(tmp_path), max_image_bytes=10)] == [oversized(21)]


def test_a_folder_is_refused_like_an_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory; expected <class>/<image>"):
        list(read_folder(list_folder(tmp_path / "none"), max_image_bytes=10))
    write_folder(tmp_path, "cats/a.jpg", "a\n.jpg")
    with pytest.raises(DataError, match=re.escape(r"'a\n.jpg' is not in a class directory")):
        list(read_folder(list_folder(tmp_path), max_image_bytes=10))


def test_what_cannot_be_read_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    write_folder(tmp_path, "cats/a.jpg")
    (tmp_path / "cats/b.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "cats/c.jpg")
    assert [image.data for image in read_folder(list_folder(tmp_path), max_image_bytes=1000)] == [
        b"content of cats/a.jpg",
        Unread("a broken link to nowhere.jpg"),
        Unread("not a regular file"),
    ]
