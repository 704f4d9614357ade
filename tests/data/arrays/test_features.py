import json
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from darkroom.data.arrays.features import Features, FeaturesWriter, choose, write_none
from darkroom.errors import DataError, ParamsError

ABOUT = {
    "backbone": "tiny",
    "weights": {"path": "here.h5", "sha256": None},
    "weights_origin": "file",
    "weights_sha256": "a" * 64,
    "image_size": [32, 48],
    "seed": 7,
    "prepared_digest": "p",
    "augmented_digest": "a",
}
VALUES = {"train": np.arange(35, dtype=np.float32).reshape(7, 5), "val": -np.ones((3, 5), np.float32)}


def write(folder: Path, values: dict[str, np.ndarray] = VALUES, **changes: object) -> Features:
    with FeaturesWriter(folder) as writer:
        for split, array in values.items():
            rows = np.column_stack([np.zeros(len(array), int), np.arange(len(array)), np.arange(len(array))])
            blocks = (array[start : start + 2] for start in range(0, len(array), 2))
            writer.write(split, blocks, n_features=5, rows=rows, labels=np.arange(len(array)) % 2)
        writer.finish(**{**ABOUT, **changes})
    return Features.open(folder)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    features = write(tmp_path)
    assert (features.backbone, features.image_size, features.seed, features.n_features) == ("tiny", (32, 48), 7, 5)
    assert features.weights == {"path": "here.h5", "sha256": None}
    assert (features.weights_origin, features.weights_sha256) == ("file", "a" * 64)
    assert features.counts == {"train": 7, "val": 3}
    for split, expected in VALUES.items():
        values, labels = features.arrays(split)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(labels, np.arange(len(expected)) % 2)
        np.testing.assert_array_equal(features.rows(split)[:, 1], np.arange(len(expected)))
        assert type(values) is np.ndarray
        assert values.base is not None, "mapped, not read"


def test_the_digest_is_of_values_and_origin_and_not_of_a_path(tmp_path: Path) -> None:
    first = write(tmp_path / "a").digest
    assert write(tmp_path / "b", weights={"path": "there.h5", "sha256": None}).digest == first
    other = VALUES["train"].copy()
    other[3, 3] += 1
    digests = [
        write(tmp_path / "c", {"train": other, "val": VALUES["val"]}).digest,
        write(tmp_path / "d", image_size=[48, 32]).digest,
        write(tmp_path / "e", weights_sha256=None).digest,
    ]
    assert len({first, *digests}) == 4


def test_without_a_backbone_there_is_a_manifest_that_says_so(tmp_path: Path) -> None:
    write(tmp_path)
    write_none(tmp_path)
    features = Features.open(tmp_path)
    assert (features.backbone, features.n_features, features.image_size) == (None, 0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"], "older features would look valid"
    with pytest.raises(DataError, match="has no features of 'train': embed.backbone is none; see embed in params.yaml"):
        features.arrays("train")
    features.check_origin(prepared_digest="x", augmented_digest="y")


def test_test_images_have_no_features(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no features of 'test': splits are train, val"):
        write(tmp_path).arrays("test")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield VALUES["train"][:2]
        raise KeyboardInterrupt

    write(tmp_path)
    with pytest.raises(KeyboardInterrupt), FeaturesWriter(tmp_path) as writer:
        writer.write("train", broken(), n_features=5, rows=np.zeros((7, 2)), labels=np.zeros(7))
    assert not list(tmp_path.iterdir())


def test_features_that_are_not_as_many_as_the_rows_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 2 features for 3 rows and 3 labels"), FeaturesWriter(tmp_path) as writer:
        writer.write("val", [VALUES["val"][:2]], n_features=5, rows=np.zeros((3, 2)), labels=np.zeros(3))
    with pytest.raises(ValueError, match=r"got float64 \(3, 5\), expected float32"), FeaturesWriter(tmp_path) as writer:
        writer.write("val", [VALUES["val"].astype(float)], n_features=5, rows=np.zeros((3, 2)), labels=np.zeros(3))


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[0][1]))
        with pytest.raises(DataError, match=r"train.npy: the disk \(or a quota\) is full"):
            write(tmp_path, {"train": np.zeros((10_000, 5), np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("manifest.json", None, "no manifest.json; run `dvc repro embed`"),
        ("manifest.json", b"{", "manifest.json: Expecting"),
        ("manifest.json", b"[]", "manifest.json lacks some of the keys augmented_digest, backbone"),
        ("train.npy", None, "train.npy: .*No such file"),
        ("train.npy", b"", "train.npy: "),
        ("train-labels.npy", "swap", r"train-labels.npy is int64 \(3,\), expected int64 \(7,\)"),
    ],
)
def test_a_folder_that_is_not_whole_says_why(
    tmp_path: Path, file: str, content: bytes | str | None, message: str
) -> None:
    write(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(
            content if isinstance(content, bytes) else (tmp_path / "val-labels.npy").read_bytes()
        )
    with pytest.raises(DataError, match=re.escape(str(tmp_path)) + " is incomplete: " + message):
        Features.open(tmp_path).arrays("train")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    features = write(tmp_path)
    content = (tmp_path / "train.npy").read_bytes()
    (tmp_path / "train.npy").write_bytes(content[:-4])
    with pytest.raises(DataError, match="is incomplete: train.npy: "):
        features.arrays("train")


def test_features_of_other_images_are_refused(tmp_path: Path) -> None:
    features = write(tmp_path)
    features.check_origin(prepared_digest="p", augmented_digest="a")
    with pytest.raises(DataError, match="the features belong to other augmented images; run `dvc repro embed`"):
        features.check_origin(prepared_digest="p", augmented_digest="b")


def test_the_manifest_is_for_people_too(tmp_path: Path) -> None:
    write(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["counts"] == {"train": 7, "val": 3}


# --- the choice of training images

LABELS = np.repeat([0, 1, 2], [600, 300, 100])
IDS = [f"id-{number}" for number in range(1000)]
ORIGINALS = np.zeros(1000, bool)


def test_every_class_keeps_its_share() -> None:
    chosen = choose(IDS, LABELS, is_copy=ORIGINALS, max_images=100, seed=7)
    assert np.bincount(LABELS[chosen]).tolist() == [60, 30, 10]
    assert (np.diff(chosen) > 0).all()


@pytest.mark.parametrize("max_images", [3, 4, 7, 10, 101, 999, 1000, 5000])
def test_as_many_as_allowed_are_kept_and_no_class_is_lost(max_images: int) -> None:
    labels = np.repeat([0, 1, 2], [990, 9, 1])
    chosen = choose(IDS, labels, is_copy=ORIGINALS, max_images=max_images, seed=7)
    assert len(chosen) == min(max_images, 1000)
    assert set(labels[chosen]) == {0, 1, 2}


def test_originals_are_taken_before_copies() -> None:
    is_copy = np.tile([False, True], 500)
    chosen = choose(IDS, LABELS, is_copy=is_copy, max_images=400, seed=7)
    assert not is_copy[chosen].any()
    chosen = choose(IDS, LABELS, is_copy=is_copy, max_images=700, seed=7)
    assert (~is_copy[chosen]).sum() == 500


def test_the_choice_ignores_order_and_more_images_extend_it() -> None:
    order = np.random.default_rng(0).permutation(1000)
    names = {IDS[at] for at in choose(IDS, LABELS, is_copy=ORIGINALS, max_images=100, seed=7)}
    shuffled = [IDS[at] for at in order]
    again = choose(shuffled, LABELS[order], is_copy=ORIGINALS, max_images=100, seed=7)
    assert {shuffled[at] for at in again} == names
    assert {IDS[at] for at in choose(IDS, LABELS, is_copy=ORIGINALS, max_images=200, seed=7)} > names
    assert {IDS[at] for at in choose(IDS, LABELS, is_copy=ORIGINALS, max_images=100, seed=8)} != names


def test_fewer_images_than_classes_are_refused() -> None:
    with pytest.raises(ParamsError, match="embed.max_images is 2, fewer than the 3 classes; raise it, or set null"):
        choose(IDS, LABELS, is_copy=ORIGINALS, max_images=2, seed=7)
