import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from darkroom.errors import LockedError, RegistryError, Stopped
from darkroom.project import locks, params, text
from darkroom.tracking import experiments, restored, runs, store
from darkroom.tracking.differences import name_run
from tests.support.onnx_model import write_model
from tests.support.trained_repository import clean_environment, fresh_store

needs_mlflow = pytest.mark.heavy
SOURCE = Path(runs.__file__).parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    fresh_store(tmp_path, monkeypatch)
    return tmp_path


def opened(**changed):
    arguments = {"experiment": "pets", "name": "train-cnn", "params": {"epochs": 2}, "tags": {"candidate": "cnn"}}
    return runs.run(**{**arguments, **changed})


def stored(run_id):
    return store.client().get_run(run_id)


def test_the_default_store_is_at_the_repository_of_dvc_root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "parent"))
    monkeypatch.chdir(tmp_path)
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/parent/mlflow.db"


def test_without_dvc_root_the_store_is_beside_dvc_yaml(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text("")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_relative_sqlite_uri_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/x.db")
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/runs/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert store.tracking_uri() == "http://server:5000"
    assert store.registry_uri() == "http://server:5000"
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///registry/x.db")
    assert store.registry_uri() == f"sqlite:///{tmp_path}/registry/x.db"


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
def test_a_folder_as_store_is_refused(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RegistryError, match="no longer keeps runs in plain directories; unset it"):
        store.tracking_uri()


def test_nested_params_become_dotted_keys():
    assert params.flatten({"a": {"b": 1, "c": {}}, "d": [1, {"e": True}], "f": "x", "g": None}) == {
        "a.b": "1",
        "a.c": "{}",
        "d": '[1, {"e": true}]',
        "f": "x",
        "g": "null",
    }


def test_a_password_never_reaches_a_message():
    assert text.redact("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


def test_a_lock_held_by_another_process_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    held = locks.store_lock("registry")
    again = locks.store_lock("registry", timeout=0.01)
    with held, pytest.raises(LockedError, match=r"registry\.lock was held by another process"), again:
        pass


@needs_mlflow
@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_silent_server_is_reported_within_ten_seconds(kind, root, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = time.monotonic()
        with pytest.raises(RegistryError, match=f"{uri} does not answer .*; start it, or correct MLFLOW_TRACKING_URI"):
            experiments.connect("pets")
        assert time.monotonic() - began < 10
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_database_server_that_is_not_there_is_reported_at_once(tmp_path, monkeypatch):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        uri = f"postgresql://me:secret@127.0.0.1:{reserved.getsockname()[1]}/mlflow"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
        with pytest.raises(RegistryError, match=r"postgresql://me:\*\*\*@127.* does not answer"):
            experiments.connect("pets")


def test_a_file_that_is_no_database_is_reported(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_text("this is not sqlite, but it is long enough to be read as a header" * 9)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RegistryError, match="does not answer .*not a database"):
        experiments.connect("pets")


@needs_mlflow
def test_a_run_keeps_params_tags_curves_and_its_dataset(root):
    with opened(params={"cnn": {"width": 32}, "long": ["x" * 7000]}) as run:
        for epoch in (1, 2, 3):
            run.log_epoch(epoch, {"train_loss": 1 / epoch, "val_accuracy": epoch / 10})
        run.log_dataset("mnist", "d" * 64, "data/prepared", {"train": {"cat": 3}})
    found = stored(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.params["cnn.width"] == "32"
    assert len(found.data.params["long"]) <= 6000
    assert found.data.tags["candidate"] == "cnn"
    assert found.data.tags["data.digest"] == "d" * 64
    assert found.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    history = store.client().get_metric_history(run.id, "epoch/train_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert "x" * 7000 in (root / "mlartifacts/pets" / run.id / "artifacts/params.yaml").read_text()


@needs_mlflow
def test_files_and_folders_are_stored_beside_the_database(root):
    (root / "pictures").mkdir()
    (root / "pictures" / "a.png").write_bytes(b"a")
    (root / "report.html").write_text("r")
    with opened() as run:
        run.log_artifact(root / "pictures", "figures")
        run.log_artifact(root / "report.html")
    folder = root / "mlartifacts" / "pets" / run.id / "artifacts"
    assert (folder / "figures" / "a.png").read_bytes() == b"a"
    assert (folder / "report.html").read_text() == "r"


@needs_mlflow
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(143), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (ValueError("no"), "FAILED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_a_run_ends_with_its_true_state(root, error, status):
    with pytest.raises(type(error)), opened() as run:
        raise error
    found = stored(run.id)
    assert found.info.status == status
    assert found.data.tags.get("error") == ("ValueError: no" if status == "FAILED" else None)


@needs_mlflow
def test_a_terminated_stage_leaves_a_killed_run(root):
    code = (
        "import os, signal\n"
        "from darkroom.project import console\n"
        "from darkroom.tracking import runs\n"
        "def main():\n"
        "    with runs.run(experiment='pets', name='n', params={}, tags={}) as run:\n"
        "        print(run.id, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "console.run(main)\n"
    )
    environment = {**clean_environment(), "PYTHONPATH": str(SOURCE)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == ""  # and MLflow says nothing
    assert stored(ended.stdout.strip()).info.status == "KILLED"


@needs_mlflow
def test_a_run_of_a_killed_process_resumes_under_its_id(root):
    with opened() as first:
        first.log_epoch(1, {"train_loss": 1.0})
    store.client().update_run(first.id, status="RUNNING")  # as SIGKILL leaves it
    with opened(resume=first.id) as second:
        assert stored(second.id).info.status == "RUNNING"
        second.log_epoch(2, {"train_loss": 0.5})
    assert second.id == first.id
    assert [point.step for point in store.client().get_metric_history(first.id, "epoch/train_loss")] == [1, 2]
    assert stored(first.id).info.status == "FINISHED"


@needs_mlflow
def test_a_run_is_not_resumed_with_other_params(root):
    with opened() as first:
        pass
    changed = opened(params={"epochs": 3}, resume=first.id)
    with pytest.raises(RegistryError, match="cannot be resumed: its param epochs was '2' and is now '3'"), changed:
        pass


@needs_mlflow
def test_resuming_an_unknown_run_begins_a_new_one(root):
    with opened(resume="0" * 32) as run:
        assert run.id != "0" * 32


@needs_mlflow
def test_mlflow_run_id_in_the_environment_redirects_nothing(root, monkeypatch):
    with opened() as first:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", first.id)
    with opened() as second:
        pass
    assert second.id != first.id


@needs_mlflow
def test_a_finished_run_takes_more_metrics_and_stays_finished(root):
    with opened() as run:
        pass
    end = stored(run.id).info.end_time
    with runs.reopen(run.id) as again:
        again.log_metrics({"test_accuracy": 0.9})
    found = stored(run.id)
    assert (again.experiment, found.info.status, found.info.end_time) == ("pets", "FINISHED", end)
    assert found.data.metrics == {"test_accuracy": 0.9}


@needs_mlflow
def test_reopening_an_unknown_run_is_an_error(root):
    with pytest.raises(RegistryError, match="Run with id=1234 not found"), runs.reopen("1234"):
        pass


@needs_mlflow
def test_a_package_shows_the_metrics_of_its_epoch(root):
    onnx = write_model(root / "m.onnx", classes=["cat", "dog"], image_shape=(4, 4, 1))
    with opened() as run:
        run.log_epoch(1, {"val_accuracy": 0.5})
        run.log_epoch(2, {"val_accuracy": 0.7})
        run.log_metrics({"val_accuracy": 0.7}, step=2)
        uri = run.log_package(onnx, input_example=np.zeros((2, 4, 4, 1), np.uint8), step=2)
        run.log_metrics({"test_accuracy": 0.6}, model_uri=uri)
    logged = store.client().get_logged_model(uri.removeprefix("models:/"))
    assert logged.source_run_id == run.id
    assert logged.status == "READY"
    shown = {"epoch/val_accuracy": 0.7, "val_accuracy": 0.7, "test_accuracy": 0.6}
    assert {metric.key: metric.value for metric in logged.metrics} == shown
    example = json.loads(Path(logged.artifact_location.removeprefix("file://"), "input_example.json").read_text())
    assert example["columns"] == ["image"]


@needs_mlflow
def test_processes_that_start_together_share_one_new_store(tmp_path):
    code = "from darkroom.tracking import experiments; print(experiments.connect('pets'))"
    environment = {**clean_environment(), "PYTHONPATH": str(SOURCE), "DVC_ROOT": str(tmp_path)}
    command = [sys.executable, "-c", code]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    answers = [child.communicate()[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert len(set(answers)) == 1


@needs_mlflow
def test_a_deleted_run_is_reported_with_the_way_back(root):
    with opened() as run:
        pass
    store.client().delete_run(run.id)
    trained = {"run_id": run.id, "experiment": "pets"}
    expected = (
        f"the run of cnn, {run.id}, was deleted in the MLflow store .*`mlflow runs restore --run-id {run.id}`, or"
    )
    with pytest.raises(RegistryError, match=expected), restored.reopen_training("cnn", trained):
        pass


@needs_mlflow
def test_a_deleted_experiment_is_reported_with_the_way_back(root):
    store.client().delete_experiment(experiments.connect("pets"))
    with pytest.raises(RegistryError, match="was deleted .* `mlflow experiments restore --experiment-id 1`"):
        experiments.connect("pets")


@needs_mlflow
def test_a_child_is_killed_when_its_training_was_stopped(root):
    with opened(name="tune-cnn") as parent:
        with pytest.raises(Stopped), opened(name="trial-1", parent=parent.id) as child:
            raise Stopped("pruned after epoch 2")
        assert stored(child.id).info.status == "KILLED"
        assert stored(child.id).data.tags["stopped"] == "pruned after epoch 2"
        assert stored(child.id).data.tags["mlflow.parentRunId"] == parent.id
    assert stored(parent.id).info.status == "FINISHED"


@needs_mlflow
def test_runs_left_open_by_a_kill_are_closed_by_their_tags(root):
    with opened(name="tune-cnn") as parent:
        experiment = stored(parent.id).info.experiment_id
        tagged = [{"study": "s", "trial": "0"}, {"study": "s", "trial": "1"}, {"study": "other", "trial": "1"}]
        left = [store.client().create_run(experiment, tags=tags).info.run_id for tags in tagged]
        assert runs.end_open("pets", tags={"study": "s", "trial": "1"}) == 1
        assert [stored(run_id).info.status for run_id in left] == ["RUNNING", "KILLED", "RUNNING"]
        assert runs.end_open("pets", tags={"study": "s"}) == 1
        assert runs.end_open("pets", tags={"study": "s"}) == 0
        assert stored(left[2]).info.status == "RUNNING"
        for run_id in (left[2], "0" * 32):  # one that the store does not know
            runs.end_left(run_id)
        assert stored(left[2]).info.status == "KILLED"


def note(run):
    return stored(run.id).data.tags["mlflow.note.content"]


@needs_mlflow
def test_a_description_has_a_paragraph_for_each_subject(root):
    with opened() as run:
        run.note("Test", "accuracy 0.9")
        run.note("Version", "none")
        store.client().set_tag(run.id, "mlflow.note.content", "mine\n\n" + note(run))
        run.note("Test", "accuracy 0.8")
    assert note(run) == "mine\n\n**Version:** none\n\n**Test:** accuracy 0.8"


TAGS = {"dvc.stage": "train@cnn", "candidate": "cnn", "data.digest": "d", "git.commit": "c"}


def named(params, tuned=(), **changed):
    """The name of a training's run and how it differs, with such a run left behind."""
    tags = {**TAGS, **changed}
    name, differs = name_run("train-cnn", experiment="pets", params=params, tags=tags, tuned=dict(tuned))
    with opened(name=name, params=params, tags=tags):
        pass
    return name, differs.replace(differs[differs.find("](#") + 1 : differs.find(")") + 1], "")


@needs_mlflow
@pytest.mark.parametrize("label", ["c++", "rock & roll", "it's", "black (bun)", "a/../b", "e\u0301", "x" * 250])
def test_a_param_may_have_the_name_of_any_class(root, label):
    params = {"class_weights": {label: 2.0, "b": 1.0}}
    with opened(params=params) as run:
        run.log_params(params)
    found = stored(run.id).data.params
    assert sorted(found.values()) == ["1.0", "2.0"]
    assert found["class_weights.b"] == "1.0"
    assert named(params)[0] == "train-cnn"
    assert named(params) == ("train-cnn", "differs from [train-cnn]: nothing")


@needs_mlflow
def test_a_run_is_named_after_what_differs_from_the_last_one(root):
    params = {"learning_rate": 0.2, "optimizer": {"name": "sgd", "momentum": 0.9}, "clip": None}
    assert named(params) == ("train-cnn", "the first run of this candidate")
    adam = {**params, "optimizer": {"name": "adam", "momentum": 0.9}}
    assert named(adam) == ("train-cnn optimizer=adam", "differs from [train-cnn]: `optimizer.name` sgd → adam")
    assert named(adam) == ("train-cnn", "differs from [train-cnn optimizer=adam]: nothing")
    assert named(adam, **{"git.commit": "other", "data.digest": "e"})[0] == "train-cnn other data"
    many = {f"key{number}": number for number in range(6)}
    assert named({**adam, **many})[0] == "train-cnn key0=0 key1=1 key2=2 key3=3 and 2 more"
    assert named(params, candidate="other", tuned={"learning_rate": 0.0511111}) == (
        "train-cnn learning_rate=0.0511",
        "tuned: `learning_rate` 0.0511",
    )


@needs_mlflow
def test_an_experiment_offers_its_views_and_keeps_changed_ones(root):
    key = "mlflow.sharedViewState.darkroom-trials"
    experiment = experiments.connect("pets")
    store.client().set_experiment_tag(experiment, key, "mine")
    assert experiments.connect("pets") == experiment
    tags = store.client().get_experiment(experiment).tags
    assert tags.pop(key) == "mine"
    assert [json.loads(view)["name"] for view in tags.values()] == ["Trained models"]
