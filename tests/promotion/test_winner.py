import json

import pytest

from darkroom.errors import DataError
from darkroom.files.writing import checksum, read_json, sha256_of
from darkroom.promotion.winner import read_winner


@pytest.fixture
def folders(tmp_path):
    """What evaluate leaves: evaluation.json, and the model of its winner."""
    (tmp_path / "models" / "cnn").mkdir(parents=True)
    (tmp_path / "models" / "cnn" / "model.onnx").write_bytes(b"a network")
    evaluation = {"winner": "cnn", "candidates": {"cnn": {"test_accuracy": 0.9}}, "test_ids_sha256": "f" * 64}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    return tmp_path


def winner_in(folder, *, named=("cnn", "transfer")):
    return read_winner(
        folder / "evaluation.json",
        predictions=folder / "predictions.parquet",
        models=folder / "models",
        prepared=folder / "prepared",
        raw=folder / "raw",
        incoming=folder / "incoming",
        named=list(named),
    )


def test_a_winner_knows_its_metrics_test_images_and_model(folders):
    winner = winner_in(folders)
    assert (winner.name, winner.metrics, winner.test_ids_sha256) == ("cnn", {"test_accuracy": 0.9}, "f" * 64)
    assert winner.model_sha256 == sha256_of(folders / "models" / "cnn" / "model.onnx")


def test_a_winner_that_is_no_candidate_is_not_acted_upon(folders):
    with pytest.raises(
        DataError, match=r"the winner is 'cnn', which is not among the candidates \(transfer\); run `dvc"
    ):
        winner_in(folders, named=["transfer"])


def test_a_winner_without_a_model_names_the_stage_for_it(folders):
    (folders / "models" / "cnn" / "model.onnx").unlink()
    with pytest.raises(DataError, match=r"model.onnx is missing; run `dvc repro train@cnn` first"):
        winner_in(folders)


@pytest.mark.parametrize("content", [None, "{", "[1, 2]"])
def test_an_evaluation_that_cannot_be_read_is_reported(folders, content):
    path = folders / "evaluation.json"
    path.unlink() if content is None else path.write_text(content)
    for read in (read_json, checksum) if content is None else (read_json,):
        with pytest.raises(
            DataError, match=r"evaluation.json (cannot be read \(.*\)|does not exist yet); run `dvc repro`"
        ):
            read(path)
