import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.errors import DataError

SHAPE = (3, 4, 1)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), np.uint8)


def index_of(n: int) -> pd.DataFrame:
    splits = ["train", "train", "val", "test", "unused"]
    return pd.DataFrame(
        {
            "row": range(n),
            "id": [f"{row:064x}" for row in range(n)],
            "label": ["ä b" if row % 2 else "cat" for row in range(n)],
            "split": [splits[row % 5] for row in range(n)],
        }
    )


def write(directory: Path, images: np.ndarray, *, shard_rows: int = 4, pieces: int = 3) -> dict[str, Any]:
    with DatasetWriter(directory, image_shape=SHAPE, shard_bytes=shard_rows * 12) as writer:
        for piece in np.array_split(images, pieces):
            writer.append(piece)
        return writer.finish(index=index_of(len(images)), manifest={"dataset": "d", "classes": ["cat", "ä b"]})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_what_was_written_is_read_back(tmp_path):
    images = pictures(10)
    manifest = write(tmp_path, images)
    data = Dataset.open(tmp_path)
    assert data.manifest == manifest
    assert data.classes == ["cat", "ä b"]
    assert data.image_shape == SHAPE
    assert data.images.shape == (10, *SHAPE)
    assert np.array_equal(data.images[:], images)
    assert data.labels.tolist() == [0, 1] * 5
    assert data.rows("train").tolist() == [0, 1, 5, 6]
    assert data.rows("unused").tolist() == [4, 9]
    assert manifest["counts"]["train"] == {"cat": 2, "ä b": 2}
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 2]
    assert data.index()["id"].tolist() == index_of(10)["id"].tolist()


@pytest.mark.parametrize("shard_rows", [3, 4, 100])
def test_any_indexing_gathers_in_the_order_requested(tmp_path, shard_rows):
    images = pictures(10)
    write(tmp_path, images, shard_rows=shard_rows)
    stored = Dataset.open(tmp_path).images
    for rows in ([7, 0, 7, 3], [-1, 2], np.array([9]), slice(2, 9, 3), slice(None), np.arange(10) % 2 == 0, []):
        wanted = images[np.asarray(rows, int)] if isinstance(rows, list) else images[rows]
        assert np.array_equal(stored[rows], wanted)
    assert np.array_equal(stored[4], images[4])
    last: Any = np.int64(-1)
    assert np.array_equal(stored[last], images[-1])
    with pytest.raises(IndexError):
        stored[np.array([0, 10])]


def test_the_pixels_are_copies_and_the_files_stay_as_they_are(tmp_path):
    write(tmp_path, pictures(10))
    before = contents(tmp_path)
    Dataset.open(tmp_path).images[np.array([0, 1])][:] = 0
    assert contents(tmp_path) == before


def test_same_images_same_bytes_however_they_came(tmp_path):
    write(tmp_path / "a", pictures(10), pieces=1)
    write(tmp_path / "b", pictures(10), pieces=7)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_every_shard_is_a_plain_npy_file_with_its_sha256(tmp_path):

    for n in (8, 10):
        manifest = write(tmp_path, pictures(n))
        for shard in manifest["shards"]:
            assert np.load(tmp_path / shard["name"]).shape == (shard["rows"], *SHAPE)
            assert hashlib.sha256((tmp_path / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]


def test_the_digest_changes_with_pixels_labels_splits_and_ids(tmp_path):
    digests = {write(tmp_path, pictures(5, seed))["digest"] for seed in (0, 0, 1)}
    for column, value in {"label": "cat", "split": "train", "id": "x"}.items():
        with DatasetWriter(tmp_path, image_shape=SHAPE, shard_bytes=48) as writer:
            writer.append(pictures(5))
            index = index_of(5).assign(**{column: value})
            digests.add(writer.finish(index=index, manifest={"dataset": "d", "classes": ["cat", "ä b"]})["digest"])
    assert len(digests) == 5


def test_a_set_without_images_can_be_written_and_read(tmp_path):
    with DatasetWriter(tmp_path, image_shape=SHAPE, shard_bytes=1) as writer:
        writer.finish(index=index_of(0), manifest={"dataset": "d", "classes": ["cat"]})
    data = Dataset.open(tmp_path)
    assert data.images[:].shape == (0, *SHAPE)
    assert data.rows("train").size == 0


def write_and_stop(directory: Path) -> None:
    with DatasetWriter(directory, image_shape=SHAPE, shard_bytes=48) as writer:
        writer.append(pictures(10))
        raise KeyboardInterrupt


def test_an_exception_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(tmp_path)
    assert contents(tmp_path) == {}


def test_a_new_run_that_dies_does_not_leave_the_old_manifest(tmp_path):
    write(tmp_path, pictures(10))
    DatasetWriter(tmp_path, image_shape=SHAPE, shard_bytes=48)
    with pytest.raises(DataError, match=r"is incomplete: no manifest.json; run `dvc repro preprocess`"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json: "),
        (lambda d: (d / "manifest.json").write_text("{}"), "lacks some of the keys"),
        (lambda d: (d / "images-00001.npy").unlink(), "images-00001.npy: "),
        (lambda d: (d / "images-00002.npy").write_bytes(b""), "images-00002.npy: "),
        (lambda d: (d / "images-00002.npy").write_bytes((d / "images-00002.npy").read_bytes()[:-1]), "images-00002"),
        (lambda d: (d / "images-00002.npy").write_bytes((d / "images-00002.npy").read_bytes() + b"1"), "longer than"),
        (lambda d: np.save(d / "labels.npy", np.zeros(3, np.int64)), r"labels.npy is int64 \(3,\), expected int64"),
        (lambda d: np.save(d / "splits.npy", np.zeros(10)), "splits.npy is float64"),
    ],
)
def test_a_damaged_folder_is_not_taken_for_whole(tmp_path, damage, message):
    write(tmp_path / "prepared", pictures(10))
    damage(tmp_path / "prepared")
    with pytest.raises(DataError, match=rf"prepared is incomplete: .*{message}"):
        Dataset.open(tmp_path / "prepared")


def test_a_damaged_index_is_not_taken_for_whole(tmp_path):
    write(tmp_path / "augmented", pictures(10))
    (tmp_path / "augmented/index.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"augmented is incomplete: index.parquet: .*run `dvc repro augment`"):
        Dataset.open(tmp_path / "augmented").index()


def test_an_index_or_images_that_do_not_fit_are_refused(tmp_path):
    with DatasetWriter(tmp_path, image_shape=SHAPE, shard_bytes=48) as writer:
        writer.append(pictures(10))
        with pytest.raises(ValueError, match="index has 9 lines"):
            writer.finish(index=index_of(9), manifest={"classes": []})
        with pytest.raises(ValueError, match="expected uint8"):
            writer.append(pictures(10).astype(np.float32))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # as a full disk: write() fails half-way
try:
    with DatasetWriter(Path(sys.argv[1]), image_shape=(100, 100, 3), shard_bytes=10_000_000) as writer:
        for _ in range(10):
            writer.append(np.zeros((10, 100, 100, 3), np.uint8))
except DataError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)
    assert "images-00000.npy: the disk (or a quota) is full after 30 images" in done.stdout
    assert "free some space and run again" in done.stdout
    assert done.stderr == ""
    assert contents(tmp_path) == {}


def test_reading_and_training_need_neither_pandas_nor_pyarrow(tmp_path):
    write(tmp_path, pictures(10))
    code = (
        "import sys; from pathlib import Path; from darkroom.data.arrays.dataset import Dataset\n"
        f"data = Dataset.open(Path({str(tmp_path)!r})); data.images[data.rows('train')]; data.labels\n"
        "print([name for name in ('pandas', 'pyarrow', 'pydantic', 'cv2', 'joblib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
