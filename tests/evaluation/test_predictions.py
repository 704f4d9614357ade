import hashlib

import numpy as np
import pandas as pd
import pytest

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.errors import DataError
from darkroom.evaluation.candidates import Candidate, score
from darkroom.evaluation.predictions import answered_rows, read_predictions, write_predictions
from tests.support.onnx_model import write_model

CLASSES = ["cat", "dog"]


def prepared(folder, splits):
    images = np.random.default_rng(0).integers(0, 256, (len(splits), 4, 4, 1), dtype=np.uint8)
    index = pd.DataFrame({"row": range(len(splits)), "split": splits})
    index["id"] = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    index["label"] = [CLASSES[row % 2] for row in index["row"]]
    with DatasetWriter(folder, image_shape=(4, 4, 1), shard_bytes=1 << 20) as writer:
        writer.append(images)
        writer.finish(index=index, manifest={"dataset": "pets", "classes": CLASSES, "color": "grey"})
    return Dataset.open(folder)


def written(folder, splits):
    """Write predictions of a dataset with these splits and return their path, the dataset and the probabilities."""
    dataset = prepared(folder / "prepared", splits)
    test, recent = (dataset.index().iloc[dataset.rows(split)] for split in ("test", "recent"))
    answers = np.random.default_rng(1).dirichlet([1, 1], len(splits))
    of_test, of_recent = answers[test["row"]], answers[recent["row"]]
    candidate = Candidate("cnn", {}, {}, {}, probabilities=of_test, recent_probabilities=of_recent)
    write_predictions([candidate], test, recent, CLASSES, folder / "predictions.parquet")
    return folder / "predictions.parquet", dataset, answers


def test_the_answers_of_a_split_are_read_apart(tmp_path):
    path, dataset, answers = written(tmp_path, ["recent", "test", "train", "test", "recent", "recent"])
    for split in ("test", "recent"):
        found = read_predictions(path, "cnn", split=split)
        rows = answered_rows(dataset, found)
        assert rows.tolist() == dataset.rows(split).tolist()
        np.testing.assert_array_equal(found.probabilities, answers[rows])
        assert found.labels.tolist() == [CLASSES[row % 2] for row in rows]


def test_a_split_without_images_has_no_answers(tmp_path):
    path, dataset, _ = written(tmp_path, ["test", "train", "test"])
    found = read_predictions(path, "cnn", split="recent")
    assert (len(found.ids), found.probabilities.shape, found.correct.tolist()) == (0, (0, 2), [])
    assert answered_rows(dataset, found).tolist() == []
    with pytest.raises(DataError, match="has no predictions of the candidate 'transfer'; run"):
        read_predictions(path, "transfer", split="recent")


def test_an_image_that_left_its_split_names_the_next_step(tmp_path):
    path, _, _ = written(tmp_path, ["test", "test", "recent", "recent"])
    now = prepared(tmp_path / "now", ["test", "test", "recent", "train"])
    with pytest.raises(DataError, match="1 of 2 evaluated images are not in the split recent of .*run `dvc repro eval"):
        answered_rows(now, read_predictions(path, "cnn", split="recent"))


@pytest.mark.parametrize("n_recent", [0, 3])
def test_recent_images_are_scored_where_there_are_any(tmp_path, n_recent):
    folder = tmp_path / "models" / "cnn"
    write_model(folder / "model.onnx", classes=CLASSES, image_shape=(4, 4, 1))
    (folder / "history.csv").write_text("epoch,train_loss,val_loss,train_accuracy,val_accuracy\n0,1,1,0.5,0.5\n")
    dataset = prepared(tmp_path / "prepared", ["train", "test", "test"] + ["recent"] * n_recent)
    found = score(folder, {}, dataset, calibration_bins=5, latency_repeats=2)
    assert (found.probabilities.shape, found.recent_probabilities.shape) == ((2, 2), (n_recent, 2))
    recent = found.metrics["recent"]
    if n_recent == 0:
        assert recent is None
    else:
        correct = found.recent_probabilities.argmax(axis=1) == dataset.labels[-n_recent:]
        assert (recent["n_images"], recent["accuracy"]) == (3, pytest.approx(correct.mean()))
        assert sum(of_class["support"] for of_class in recent["per_class"].values()) == 3
