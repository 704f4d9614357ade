import hashlib

import numpy as np
import pandas as pd
import pytest

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.arrays.seen import is_seen, read_seen_ids, seen_ids, set_aside, write_seen_ids
from darkroom.errors import DataError


def sha256(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def index_of(splits, groups=None):
    """Image k has the id sha256("k"); groups name the image by which a group is known."""
    groups = groups or range(len(splits))
    columns = {"row": range(len(splits)), "id": map(sha256, range(len(splits))), "group": map(sha256, groups)}
    return pd.DataFrame({**columns, "label": "cat", "split": splits})


def prepared(folder, index):
    with DatasetWriter(folder, image_shape=(1, 1, 1), shard_bytes=100) as writer:
        writer.append(np.zeros((len(index), 1, 1, 1), np.uint8))
        writer.finish(index=index, manifest={"dataset": "pets", "classes": ["cat"], "color": "grey"})
    return Dataset.open(folder)


def test_train_and_val_images_were_seen(tmp_path):
    index = index_of(["train", "val", "test", "unused", "train"])
    seen = seen_ids(prepared(tmp_path, index))
    assert is_seen(index, seen).tolist() == [True, True, False, False, True]
    shuffled = index.iloc[::-1]
    assert is_seen(shuffled, seen).tolist() == [True, False, False, True, True]


def test_a_near_duplicate_of_a_seen_image_was_seen(tmp_path):
    before = index_of(["train", "test", "train"], groups=[3, 1, 2])
    seen = seen_ids(prepared(tmp_path, before))
    after = index_of(["unused", "test", "test", "test", "test"], groups=[0, 1, 2, 3, 2])
    assert is_seen(after, seen).tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("n_groups", range(1, 7))
def test_of_few_groups_some_are_set_aside_and_some_are_not(n_groups, tmp_path):
    for start in range(12):
        groups = [start * n_groups + number % n_groups for number in range(2 * n_groups)]
        aside = set_aside(prepared(tmp_path / str(start), index_of(["val"] * len(groups), groups=groups)))
        assert (aside[:n_groups] == aside[n_groups:]).all(), "a group is not divided"
        assert set(aside) == ({True, False} if n_groups > 1 else {False})


def test_the_file_holds_eight_bytes_per_image(tmp_path):
    seen = seen_ids(prepared(tmp_path / "data", index_of(["train", "val", "test"] * 400)))
    write_seen_ids(tmp_path / "seen_ids.npy", seen)
    assert np.array_equal(read_seen_ids(tmp_path / "seen_ids.npy"), seen)
    assert (tmp_path / "seen_ids.npy").stat().st_size == 800 * 8 + 128


def test_a_model_that_has_seen_nothing_has_an_empty_list(tmp_path):
    index = index_of(["test", "test"])
    assert is_seen(index, seen_ids(prepared(tmp_path, index))).tolist() == [False, False]


@pytest.mark.parametrize("content", [b"", b"not an array", np.zeros(3)])
def test_a_damaged_file_is_reported(tmp_path, content):
    path = tmp_path / "seen_ids.npy"
    np.save(path, content) if isinstance(content, np.ndarray) else path.write_bytes(content)
    with pytest.raises(DataError, match=r"seen_ids.npy (cannot be read|is float64 \(3,\), expected uint64).*run `dvc"):
        read_seen_ids(path)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"seen_ids.npy cannot be read .*; run `dvc repro train`"):
        read_seen_ids(tmp_path / "seen_ids.npy")
