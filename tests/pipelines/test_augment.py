import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.augmentation import copies
from darkroom.errors import DataError, ParamsError
from pipelines import augment
from tests.support.project import ROOT

SHAPE = (12, 10, 3)
CLASSES = ["bird", "cat", "dog"]
ARGUMENTS = ["--prepared", "prepared", "--out", "augmented", "--report", "report"]
COMPUTE = {"cluster": None, "device": "auto"}
AUGMENT: dict[str, Any] = {
    "copies": 2,
    "seed": 7,
    "preview_images": 2,
    "transforms": [{"Affine": {"rotate": [-20, 20], "p": 1.0}}, {"GaussNoise": {"p": 0.5}}],
}


def prepare(directory: Path, *, n_images: int = 50, shard_rows: int = 16) -> Dataset:
    pixels = np.random.default_rng(5).integers(0, 256, (n_images, *SHAPE), dtype=np.uint8)
    index = pd.DataFrame(
        {
            "row": range(n_images),
            "id": [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels],
            "label": [CLASSES[row % 3] for row in range(n_images)],
            "split": ["test" if row % 5 == 0 else "val" if row % 7 == 0 else "train" for row in range(n_images)],
        }
    )
    with DatasetWriter(directory, image_shape=SHAPE, shard_bytes=shard_rows * int(np.prod(SHAPE))) as writer:
        writer.append(pixels)
        about = {
            "dataset": "noise",
            "classes": CLASSES,
            "color": "rgb",
            "mean": [1.0, 2.0, 3.0],
            "std": [1.0, 1.0, 1.0],
        }
        writer.finish(index=index, manifest=about)
    return Dataset.open(directory)


def stage(folder: Path, *, workers: int = 1, backend: str = "loky", **changes: Any) -> None:
    params = {"augment": {**AUGMENT, **changes}, "compute": {**COMPUTE, "backend": backend, "workers": workers}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with Path("params.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(params, file)
        patch.setattr(sys, "argv", ["augment", *ARGUMENTS])
        augment.main()


def draw(prepared: Path, *, transforms: list[dict[str, Any]] | None = None, **changes: Any) -> list[np.ndarray]:
    dataset = Dataset.open(prepared)
    rows = dataset.rows("train")
    settings: dict[str, Any] = {
        "copies": 2,
        "seed": 7,
        "backend": "loky",
        "workers": 1,
        "scratch": prepared.parent,
        **changes,
    }
    ids = dataset.index()["id"][rows].tolist()
    blocks = copies.draw_copies(
        prepared, rows=rows, ids=ids, transforms=transforms or AUGMENT["transforms"], **settings
    )
    return [block.copy() for block in blocks]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("augment")
    prepare(folder / "prepared")
    stage(folder)
    return folder


def test_copies_are_of_training_images_and_name_their_parents(done: Path) -> None:
    prepared, augmented = Dataset.open(done / "prepared"), Dataset.open(done / "augmented")
    parents = prepared.index().query("split == 'train'")
    index = augmented.index()
    assert index.columns.tolist() == ["row", "id", "parent_id", "copy", "label", "split"]
    assert index["parent_id"].tolist() == parents["id"].repeat(2).tolist()
    assert index["label"].tolist() == parents["label"].repeat(2).tolist()
    assert index["copy"].tolist() == [1, 2] * len(parents)
    assert index["id"][1] == f"{parents['id'].iloc[0]}-2"
    assert set(index["split"]) == {"train"}
    assert len(augmented.rows("train")) == len(augmented.images) == 2 * len(parents)


def test_the_manifest_says_what_was_drawn_from_what(done: Path) -> None:
    prepared, augmented = Dataset.open(done / "prepared").manifest, Dataset.open(done / "augmented").manifest
    assert augmented["prepared_digest"] == prepared["digest"]
    assert augmented["augment"] == {key: AUGMENT[key] for key in ("copies", "seed", "transforms")}
    for key in ("dataset", "classes", "image_shape", "color", "mean", "std"):
        assert augmented[key] == prepared[key], key
    assert augmented["shards"][0]["rows"] == prepared["shards"][0]["rows"] == 16


@pytest.mark.parametrize(
    "backend", ["threading", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("loky", "ray"))]
)
def test_the_files_do_not_depend_on_the_workers_or_the_preview(done: Path, tmp_path: Path, backend: str) -> None:
    prepare(tmp_path / "prepared")
    stage(tmp_path, workers=2, backend=backend, preview_images=1)
    files = sorted(path.name for path in (done / "augmented").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "augmented").iterdir())
    for name in files:
        assert (done / "augmented" / name).read_bytes() == (tmp_path / "augmented" / name).read_bytes(), name


def test_the_preview_is_a_picture_of_the_stored_pixels(done: Path) -> None:
    assert (done / "report" / "preview.png").read_bytes().startswith(b"\x89PNG")
    prepared, augmented = Dataset.open(done / "prepared"), Dataset.open(done / "augmented")
    rows = prepared.rows("train")
    images, titles, n_columns = copies.preview(prepared, augmented, parents=rows.tolist(), copies=2, images_per_class=2)
    assert n_columns == 6
    assert titles == [title for name in CLASSES for title in [name, "copy 1", "copy 2"] * 2]
    index = augmented.index()
    for label, name in enumerate(CLASSES):
        of_class = [row for row in rows if prepared.labels[row] == label]
        for position, row in enumerate(of_class[:2]):
            shown = images[label * 6 + position * 3 :][:3]
            stored = index.query("parent_id == @prepared.index().id[@row]")["row"]
            assert index["label"][stored.iloc[0]] == name
            assert np.array_equal(shown[0], prepared.images[int(row)])
            assert np.array_equal(np.stack(shown[1:]), augmented.images[stored.to_numpy()])


def test_a_small_class_leaves_its_places_empty_in_the_preview(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "prepared", n_images=6)
    images, titles, n_columns = copies.preview(prepared, prepared, parents=[1, 2], copies=0, images_per_class=3)
    assert n_columns == 3
    assert titles == [*[""] * 3, "cat", "", "", "dog", "", ""]
    assert np.array_equal(images[3], prepared.images[1])
    assert (images[0] == 255).all()


def test_no_copies_are_a_valid_empty_data_set(tmp_path: Path) -> None:
    prepare(tmp_path / "prepared")
    stage(tmp_path, copies=0)
    augmented = Dataset.open(tmp_path / "augmented")
    assert augmented.images.shape == (0, *SHAPE)
    assert len(augmented.index()) == len(augmented.rows("train")) == 0
    assert augmented.images[:].shape == (0, *SHAPE)
    assert (tmp_path / "report" / "preview.png").exists()


@pytest.mark.parametrize("copies", [0, 1])
def test_a_wrong_transform_ends_the_stage_and_leaves_no_data(tmp_path: Path, copies: int) -> None:
    prepare(tmp_path / "prepared")
    with pytest.raises(
        ParamsError, match=r"^augment.transforms\[0\]: there is no transform 'Afine'; did you mean 'Affine'"
    ):
        stage(tmp_path, copies=copies, transforms=[{"Afine": {}}])
    assert list((tmp_path / "augmented").iterdir()) == []


@pytest.mark.heavy
def test_an_error_in_a_worker_process_is_the_same_line(tmp_path: Path) -> None:
    prepare(tmp_path / "prepared")
    with pytest.raises(ParamsError, match=r"^augment.transforms\[0\]: there is no argument of Affine 'rotation'"):
        stage(tmp_path, workers=2, transforms=[{"Affine": {"rotation": 3}}])


def test_wrong_keys_and_values_are_refused_before_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(
        ParamsError, match="augment has an unknown key 'flip_prob'; known keys: copies, preview_images, s"
    ):
        stage(tmp_path, flip_prob=1)
    with pytest.raises(ParamsError, match="augment.copies is -1"):
        stage(tmp_path, copies=-1)


def test_pixels_do_not_depend_on_how_the_work_is_cut(tmp_path: Path, monkeypatch: Any) -> None:
    prepare(tmp_path / "prepared")
    whole = np.concatenate(draw(tmp_path / "prepared"))
    monkeypatch.setattr(copies, "_CHUNK_IMAGES", 3)
    monkeypatch.setattr(copies, "_READ_BYTES", 5 * int(np.prod(SHAPE)))
    for changes in ({"backend": "threading", "workers": 4}, {"workers": 1}):
        blocks = draw(tmp_path / "prepared", **changes)
        assert {len(block) for block in blocks[:-1]} == {6}
        assert np.array_equal(np.concatenate(blocks), whole), changes


def test_another_seed_or_copy_gives_other_pixels(tmp_path: Path) -> None:
    prepare(tmp_path / "prepared")
    changes: list[dict[str, Any]] = [{"copies": 1}, {}, {"seed": 8}]
    one, two, other = (np.concatenate(draw(tmp_path / "prepared", **changed)) for changed in changes)
    assert np.array_equal(two[::2], one)
    assert not np.array_equal(two[1::2], one)
    assert not np.array_equal(two, other)


def test_the_copies_of_an_image_do_not_depend_on_others(tmp_path: Path) -> None:
    dataset = prepare(tmp_path / "prepared")
    rows = dataset.rows("train")
    ids = dataset.index()["id"][rows].tolist()
    settings: dict[str, Any] = {"transforms": AUGMENT["transforms"], "copies": 1, "seed": 7, "scratch": tmp_path}
    settings |= {"backend": "loky", "workers": 1}
    whole = next(copies.draw_copies(tmp_path / "prepared", rows=rows, ids=ids, **settings)).copy()
    alone = next(copies.draw_copies(tmp_path / "prepared", rows=rows[9:10], ids=ids[9:10], **settings))
    assert np.array_equal(alone[0], whole[9])


def test_an_in_place_transform_does_not_reach_the_next_copy(tmp_path: Path, monkeypatch: Any) -> None:
    prepare(tmp_path / "prepared")

    def paint(image: np.ndarray, **_: Any) -> np.ndarray:
        image += 1
        return image

    monkeypatch.setattr(copies, "augment_image", paint)
    first, second = np.split(np.concatenate(draw(tmp_path / "prepared")).reshape(-1, 2, *SHAPE), 2, axis=1)
    assert np.array_equal(first, second)


def test_scratch_files_are_few_and_are_gone_at_the_end(tmp_path: Path, monkeypatch: Any) -> None:
    prepare(tmp_path / "prepared")
    monkeypatch.setattr(copies, "_CHUNK_IMAGES", 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    dataset = Dataset.open(tmp_path / "prepared")
    rows = dataset.rows("train")
    counts = [
        sum(1 for path in scratch.rglob("*") if path.is_file())
        for _ in copies.draw_copies(
            tmp_path / "prepared",
            rows=rows,
            ids=[str(row) for row in rows],
            transforms=[],
            copies=1,
            seed=1,
            scratch=scratch,
            backend="loky",
            workers=1,
        )
    ]
    assert len(counts) == len(rows)
    assert max(counts) == 1
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the disk \(or a quota\) is full: No space left on device; free some space and run again"),
        (errno.EACCES, "cannot be written: Permission denied; fix that and run again"),
    ],
)
def test_only_a_full_disk_asks_for_space(tmp_path: Path, monkeypatch: Any, number: int, message: str) -> None:
    prepare(tmp_path / "prepared")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "touch", fail)
    with pytest.raises(DataError, match=message):
        draw(tmp_path / "prepared")


@pytest.mark.heavy
def test_the_stage_loads_nothing_heavy_and_asks_for_no_updates(done: Path, tmp_path: Path) -> None:
    code = """
import os, sys
from pipelines import augment
assert "albumentations" not in sys.modules
augment.main()
assert "albumentations" in sys.modules
assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
wrong = {"tensorflow", "keras", "mlflow", "optuna"} & set(sys.modules)
assert not wrong, wrong
"""
    shutil.copytree(done, tmp_path / "copy")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *ARGUMENTS]
    result = subprocess.run(
        command, cwd=tmp_path / "copy", env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "augment: 68 copies of 34 training images\n"
