"""The train stage on sixteen-pixel images, with a real MLflow store: a process of its own where that matters."""

import copy
import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from darkroom.data.arrays.seen import read_seen_ids
from darkroom.deployable.package import Package
from darkroom.errors import DataError, ParamsError, RegistryError, TrainingError
from darkroom.networks.runtime import device
from darkroom.project.locks import store_lock
from darkroom.training import opened, overrides
from pipelines import train
from tests.support.project import ROOT
from tests.support.training_stage import TrainingStage, train_section

pytestmark = pytest.mark.heavy


class Stage(TrainingStage):
    def __init__(self, root: Path) -> None:
        super().__init__(root, "pipelines.train", "--best", "models/cnn/best.yaml", "--out", "models/cnn")
        overrides.write(root / "models" / "cnn" / "best.yaml", {}, comment="nothing")
        self.params()

    def params(self, **changes: str) -> None:
        """Write params.yaml; changes are key=value of settings as they stand in TRAIN."""
        settings = {"precision": "auto", "device": "auto", **changes}
        (self.root / "params.yaml").write_text(train_section(**settings))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("train"))


def test_a_training_leaves_model_history_and_run_that_agree(stage: Stage) -> None:
    stage.params(epochs="3", precision="float32")
    printed = stage.run()
    assert re.findall(r"^epoch (\d)/3: train loss", printed, re.MULTILINE) == ["1", "2", "3"]
    assert "oneDNN" not in printed, "TensorFlow's notices are kept away"
    out = stage.root / "models" / "cnn"
    made = {"history.csv", "metrics.json", "model.keras", "model.onnx", "run.json", "seen_ids.npy"}
    assert {path.name for path in out.iterdir()} == made | {"best.yaml"}
    assert len(read_seen_ids(out / "seen_ids.npy")) == 200, "160 to train on, 40 to validate"
    run = json.loads((out / "run.json").read_text())
    history = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert [(row["epoch"], row["phase"]) for row in history] == [(str(epoch), "training") for epoch in (1, 2, 3)]
    kept = history[run["best_epoch"] - 1]
    assert float(kept["val_accuracy"]) == run["val_accuracy"]
    assert run["val_accuracy"] == 1.0
    assert json.loads((out / "metrics.json").read_text()) == {"cnn": {"val_accuracy": run["val_accuracy"]}}
    assert run["val_loss"] == float(kept["val_loss"])
    assert run["params"]["epochs"] == 3
    logged = "select step, value from metrics where run_uuid = ? and key = ? order by step"
    assert stage.query(logged, run["run_id"], "epoch/val_loss") == [
        (epoch, float(record["val_loss"])) for epoch, record in enumerate(history, start=1)
    ]
    assert stage.query(logged, run["run_id"], "val_loss") == [(run["best_epoch"], run["val_loss"])]
    ((note,),) = stage.query("select value from tags where run_uuid = ? and key = 'mlflow.note.content'", run["run_id"])
    assert f"accuracy 100.00%, kept from epoch {run['best_epoch']} of 3" in note
    assert stage.query("select status from runs where run_uuid = ?", run["run_id"]) == [("FINISHED",)]
    ((device,),) = stage.query("select value from tags where run_uuid = ? and key = 'device'", run["run_id"])
    assert "tensorflow" in device
    assert not list((stage.root / ".darkroom" / "checkpoints").glob("*")), "no checkpoint outlives its training"


def test_a_terminated_training_resumes_in_the_same_run(stage: Stage) -> None:
    """And a second one, equal and at the same time, does not share its checkpoint."""
    stage.params(epochs="20")
    with stage.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2/20"):
                process.send_signal(signal.SIGSTOP)
                try:
                    refused = stage.run(status=75)
                finally:
                    process.terminate()
                    process.send_signal(signal.SIGCONT)
    assert process.returncode == 143
    assert re.search(r"^error: .*train-[0-9a-f]{16}\.lock was held by another process", refused, re.MULTILINE)
    ((run_id, status),) = stage.query("select run_uuid, status from runs order by start_time desc limit 1")
    assert status == "KILLED"
    printed = stage.run()  # the checkpoint is of the modules that are loaded: of fewer than a test process has
    first = re.search(r"^epoch (\d+)/20", printed, re.MULTILINE)
    assert first is not None
    assert int(first[1]) >= 2
    assert json.loads((stage.root / "models/cnn/run.json").read_text())["run_id"] == run_id
    assert stage.query("select status from runs where run_uuid = ?", run_id) == [("FINISHED",)]


def test_a_server_that_does_not_answer_stops_training_early(stage: Stage) -> None:
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9"):
        stage.call(train.main, MLFLOW_TRACKING_URI="http://127.0.0.1:9")


def test_a_diverged_training_is_one_line_and_a_failed_run(stage: Stage) -> None:
    stage.params(epochs="2", learning_rate="1.0e+30")
    with pytest.raises(TrainingError, match=r"loss is (nan|inf).*lower learning_rate"):
        stage.call(train.main)
    assert stage.query("select status from runs order by start_time desc limit 1") == [("FAILED",)]


def test_data_that_are_not_whole_are_refused(stage: Stage, tmp_path: Path) -> None:
    (stage.root / "prepared" / "manifest.json").rename(tmp_path / "manifest.json")
    try:
        with pytest.raises(DataError, match="^prepared is incomplete"):
            stage.call(train.main)
    finally:
        (tmp_path / "manifest.json").rename(stage.root / "prepared" / "manifest.json")


def test_after_an_edit_a_killed_training_is_closed_and_removed(stage: Stage) -> None:
    stage.params(epochs="10", learning_rate="0.05")
    with stage.start() as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line.startswith("epoch 1/10"):
                killed.kill()
    checkpoints = stage.root / ".darkroom" / "checkpoints"
    (run_id,) = (path.read_text() for path in checkpoints.glob("*/run_id"))
    status = "select status from runs where run_uuid = ?"
    assert stage.query(status, run_id) == [("RUNNING",)]
    of_others = [checkpoints / f"cnn-large-{'0' * 16}", checkpoints / f"cnn-{'1' * 16}"]
    for folder in of_others:
        folder.mkdir()
    stage.params(epochs="1", learning_rate="0.05")
    with store_lock(f"train-{'1' * 16}", root=stage.root):
        stage.call(train.main)
    assert stage.query(status, run_id) == [("KILLED",)]
    assert sorted(checkpoints.iterdir()) == sorted(of_others)
    for folder in of_others:
        folder.rmdir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutout": "16"}, "cutout is 16: it would blank whole images"),
        ({"batch_size": "225"}, "batch_size is 225, more than the 224 training images"),
        ({"class_weights": "{lihgt: 2.0}"}, "unknown class 'lihgt'; classes: dark, light"),
    ],
)
def test_a_recipe_that_these_pictures_do_not_allow_is_refused(
    changes: dict[str, str], message: str, stage: Stage
) -> None:
    stage.params(**changes)
    with pytest.raises(ParamsError, match=f"^params.yaml: train.cnn.*{message}"):
        stage.call(train.main)


def test_a_training_for_finding_mistakes_is_said_to_be_one(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.params(overfit_one_batch="true", max_steps="4", batch_size="225")
    with pytest.raises(ParamsError, match="batch_size"):
        stage.call(train.main)
    said = "train: cnn: debug is on (overfit_one_batch, max_steps); do not deploy this model\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "line", "message"),
    [
        (
            "optimizer",
            "{name: sdg, momentum: 0.9, weight_decay: 0.0, clip_norm: null}",
            "optimizer.name is 'sdg'.*muon",
        ),
        ("optimizer", "{name: sgd, momentum: 1.0, weight_decay: 0.0, clip_norm: null}", "optimizer.momentum is 1.0"),
        ("schedule", "{name: step, warmup: 0.0, every: 2}", "schedule.*lacks the key 'factor'"),
        ("schedule", "{name: linear, warmup: 0.0}", "schedule.name is 'linear': expected one of .*one_cycle"),
        ("output", "hinge", "output is 'hinge'.*'softmax' or 'sigmoid'"),
        ("label_smoothing", "1.0", "label_smoothing is 1.0"),
        ("averaging", "1.0", "averaging is 1.0"),
    ],
)
def test_optimizer_schedule_and_loss_are_checked_before_data(
    key: str, line: str, message: str, stage: Stage, tmp_path: Path
) -> None:
    stage.params()
    text, found = re.subn(
        rf"^    {key}: .*$", f"    {key}: {line}", (stage.root / "params.yaml").read_text(), flags=re.M
    )
    assert found == 1
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "models" / "cnn").mkdir(parents=True)
    (tmp_path / "models" / "cnn" / "best.yaml").write_text("{}")  # and no data: reading them would be the error
    bare = copy.copy(stage)
    bare.root = tmp_path
    with pytest.raises(ParamsError, match=f"^params.yaml: train.cnn.*{message}"):
        bare.call(train.main)


@pytest.mark.parametrize(
    ("changes", "message"), [({"batch_size": "225"}, "batch_size is 225"), ({"averaging": "1.0"}, "averaging is 1.0")]
)
def test_a_wrong_recipe_is_refused_before_anything_heavy_loads(
    changes: dict[str, str], message: str, stage: Stage
) -> None:
    stage.params(**changes)
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "paths = {'prepared': 'prepared', 'augmented': 'augmented', 'features': 'features'}\n"
        "paths |= {'best': 'models/cnn/best.yaml', 'out': 'models/cnn'}\n"
        "sys.argv = ['train', *(part for name, path in paths.items() for part in (f'--{name}', path))]\n"
        "try:\n"
        "    runpy.run_module('pipelines.train', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'keras', 'tensorflow', 'mlflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=stage.root, capture_output=True, text=True)
    assert done.stdout.strip() == "2 []", done.stderr
    assert re.fullmatch(rf"error: params.yaml: train.cnn.*{message}.*\n", done.stderr)


def test_a_gpu_that_is_requested_and_missing_is_an_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.params(device="gpu")
    monkeypatch.setattr(device, "gpus", lambda: [])
    with pytest.raises(TrainingError, match=r"^compute.device is gpu, but tensorflow found no GPU[^\n]*$"):
        stage.call(train.main)


def test_values_of_best_yaml_replace_those_of_params_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(tmp_path)
    stage.params(epochs="1")
    overrides.write(
        stage.root / "models" / "cnn" / "best.yaml", {"learning_rate": 0.05, "label_smoothing": 0.1}, comment="x"
    )
    stage.call(train.main)
    assert "train: cnn: tuned values: learning_rate 0.05 (not 0.1)\n" in capsys.readouterr().err
    assert stage.query("select value from params where key = 'learning_rate'") == [("0.05",)]
    assert stage.query("select value from tags where key = 'tuned'") == [('{"learning_rate": 0.05}',)]


def test_a_threshold_is_calibrated_on_images_that_chose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path)
    stage.params(epochs="2", abstain="{error_rate: 0.2, confidence: 0.9}", sets="{coverage: 0.8}", unknown_below="0.2")
    stage.call(train.main)
    package = Package.load(stage.root / "models" / "cnn" / "model.onnx")
    said, run = package.metadata["abstain"], json.loads((stage.root / "models" / "cnn" / "run.json").read_text())
    assert 30 < said["n_images"] + run["held_out_images"] <= 40, "those that are unknown are not counted"
    assert (said["error_rate"], said["n_wrong"], said["by_folds"]) == (0.2, 0, False)
    assert package.abstain_below == 0.0, "all are right"
    assert package.sets is not None
    assert package.sets["n_images"] + run["held_out_images"] == 40, "unknown ones have a set too"
    answer = package.predict([np.zeros((16, 16, 1), np.uint8)])[0]
    assert answer["prediction_set"] == [answer["label"]], "all are right without a second"
    printed = capsys.readouterr().err
    assert "train: cnn: does not answer below 0: then at most 20% of the answers are wrong" in printed
    assert "train: cnn: finds images unknown that are stranger than all but 20% of known ones" in printed
    noise = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1), dtype=np.uint8)
    assert np.mean([answer["unknown"] for answer in package.predict(list(noise))]) > 0.9
    assert stage.query("select value from metrics where key = 'abstain_below'") == [(0.0,)]


def test_images_of_one_group_promise_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path)
    stage.params(epochs="1", abstain="{error_rate: 0.2, confidence: 0.9}", sets="{coverage: 0.8}")
    monkeypatch.setattr(opened, "set_aside", lambda _dataset: np.zeros(40, bool))
    stage.call(train.main)
    package = Package.load(stage.root / "models" / "cnn" / "model.onnx")
    for kind in ("abstain", "sets"):
        assert (package.metadata[kind]["n_images"], package.metadata[kind]["by_folds"]) == (0, False)
    answer = package.predict([np.zeros((16, 16, 1), np.uint8)])[0]
    assert answer["abstained"]
    assert len(answer["prediction_set"]) == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rat", 0.1, r"best.yaml: train has no key 'learning_rat'.*did you mean 'learning_rate'"),
        ("learning_rate", -1.0, r"best.yaml: train.learning_rate is -1.0: .*greater than 0; run `dvc repro tune`"),
    ],
)
def test_a_best_yaml_that_a_recipe_cannot_have_is_refused(tmp_path: Path, key: str, value: float, message: str) -> None:
    stage = Stage(tmp_path)
    overrides.write(stage.root / "models" / "cnn" / "best.yaml", {key: value}, comment="edited by hand")
    with pytest.raises(ParamsError, match=message):
        stage.call(train.main)
