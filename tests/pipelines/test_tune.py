"""The tune stage on sixteen-pixel images, with a real MLflow store and real workers.

Where it matters the stage is a process of its own; elsewhere main() is called, and searches share one worker process.
"""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from darkroom.compute import workers
from darkroom.compute.local import LocalProcess, thread_limits
from darkroom.errors import LockedError, ParamsError, SearchError, TrainingError
from darkroom.training import overrides
from darkroom.tuning import storage
from darkroom.tuning.rows import TrialRow, best_trial
from pipelines import tune
from tests.support.project import ROOT
from tests.support.training_stage import TRAIN, TrainingStage, train_section

pytestmark = pytest.mark.heavy

SECONDS = 500  # a deadline for machines that do other work; 10 s are usual

TUNE = {
    "trials": "3",
    "minutes": "null",
    "epochs": "2",
    "fraction": "0.5",
    "sampler": "tpe",
    "pruner": "none",
    "objectives": "[val_accuracy]",
    "max_latency_ms": "null",
    "max_model_bytes": "null",
    "alpha": "0.05",
    "confirm": "false",
    "space": "{cnn: {learning_rate: {float: [0.01, 0.5], log: true}, architecture.dropout: {float: [0.0, 0.5]}}}",
    "seed": "7",
    "workers": "1",
    "cpus": "auto",
    "gpus": "0.0",
    "max_worker_bytes": "null",
    "storage": "null",
    "study": "null",
}


class Stage(TrainingStage):
    def __init__(self, root: Path) -> None:
        super().__init__(root, "pipelines.tune", "--best", "models/cnn/best.yaml", "--report", "report")
        self.params()

    def params(self, *, train: str = TRAIN, **changes: str) -> None:
        """Write params.yaml; changes are of the section tune."""
        assert set(changes) <= set(TUNE)
        tune = "".join(f"  {key}: {value}\n" for key, value in {**TUNE, **changes}.items())
        (self.root / "params.yaml").write_text(f"tune:\n{tune}{train}")

    def runs(self) -> dict[str, str]:
        """Status by name of every run; behind the first word a name says what was drawn."""
        return {name.partition(" ")[0]: status for name, status in self.query("select name, status from runs")}

    def tags(self, run: str) -> dict[str, str]:
        sql = "select tags.key, tags.value from tags join runs using (run_uuid) where runs.name || ' ' like ? || ' %'"
        return dict(self.query(sql, run))

    def trials(self) -> list[dict[str, str]]:
        with (self.root / "report" / "trials.csv").open() as file:
            return list(csv.DictReader(file))

    def study(self) -> list[TrialRow]:
        """The trials as the storage holds them; none before it exists."""
        folder = self.root / ".darkroom" / "tuning"
        if not (folder / "cnn.json").is_file():
            return []
        name = json.loads((folder / "cnn.json").read_text())["study"]
        journal = folder / f"{name}.journal"
        return storage.read_rows(name, str(journal)) if journal.is_file() else []

    @property
    def best(self) -> dict[str, Any]:
        return overrides.read(self.root / "models" / "cnn" / "best.yaml")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


class KeptProcess(LocalProcess):
    """A worker process that outlives its search, for the next one: TensorFlow takes 8 s to load."""

    def stop(self) -> None:
        assert self._newest is None or self._newest.done()

    def end(self) -> None:
        super().stop()


@pytest.fixture(scope="module")
def kept_process() -> Iterator[KeptProcess]:
    process = KeptProcess(thread_limits(1))
    yield process
    process.end()


@pytest.fixture
def one_process(kept_process: KeptProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every search that is called in this process, with one worker, have the same one."""
    monkeypatch.setattr(workers, "LocalProcess", lambda _environment: kept_process)


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """For what is refused before anything is written."""
    return Stage(tmp_path_factory.mktemp("untuned"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, kept_process: KeptProcess) -> tuple[Stage, str]:
    """A finished search over a hopeless trial 0, with what the stage printed."""
    stage = Stage(tmp_path_factory.mktemp("tuned"))
    stage.params(
        train=train_section(learning_rate="0.00001"),
        trials="4",
        sampler="random",
        confirm="true",
        space="{cnn: {learning_rate: {float: [0.00001, 0.3]}, architecture.dropout: {categorical: [0.0, 0.1]}}}",
    )
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as printed:
        patch.setattr(workers, "LocalProcess", lambda _environment: kept_process)
        stage.call(tune.main)
    return stage, printed.getvalue()


def test_a_better_trial_is_handed_to_train_with_its_reason(tuned: tuple[Stage, str]) -> None:
    stage, printed = tuned
    chosen = json.loads((stage.root / "report" / "chosen.json").read_text())
    assert chosen["trial"] > 0
    taken = stage.trials()[chosen["trial"]]
    assert (
        stage.best
        == chosen["values"]
        == {
            "learning_rate": float(taken["learning_rate"]),
            "architecture.dropout": float(taken["architecture.dropout"]),
        }
    )
    assert f"tune: cnn: {chosen['reason']}\n" in printed
    assert re.search(r"trial \d: complete, val accuracy 0\.\d{4}.* \(learning_rate=", printed)


def chosen_trial(stage: Stage) -> int:
    return int(json.loads((stage.root / "report" / "chosen.json").read_text())["trial"])


def test_the_parent_run_has_a_child_per_trial_with_its_curve(
    tuned: tuple[Stage, str],
) -> None:
    stage, _ = tuned
    trained = [f"{kind}-{number}" for kind in ("trial", "confirm") for number in range(4)]
    assert stage.runs() == {"tune-cnn": "FINISHED", **dict.fromkeys(trained, "FINISHED")}
    parent = stage.query("select run_uuid from runs where name = 'tune-cnn'")[0][0]
    values = "select value from params join runs using (run_uuid) where runs.name like ? and params.key = ?"
    logged = "select step, value from metrics join runs using (run_uuid) where runs.name like ? and key = ? order by 1"
    for trial in stage.trials():
        name = f"trial-{trial['trial']}"
        assert stage.tags(name)["mlflow.parentRunId"] == parent
        drawn = f"{name} learning_rate=%"
        assert stage.query(values, drawn, "learning_rate") == [(trial["learning_rate"],)]
        assert stage.query(values, drawn, "architecture.dropout") == [(trial["architecture.dropout"],)]
        assert stage.query(values, drawn, "epochs") == [("2",)]
        assert [step for step, _ in stage.query(logged, drawn, "epoch/val_accuracy")] == [1, 2]
        assert stage.query(logged, drawn, "val_accuracy") == [(0, float(trial["val_accuracy"]))]


def test_the_report_is_drawn_and_kept_with_the_parent_run(tuned: tuple[Stage, str]) -> None:
    stage, _ = tuned
    drawn = {file.name for file in (stage.root / "report").iterdir()}
    assert drawn == {
        *("trials.csv", "chosen.json", "history.png", "curves.png", "slices.png", "importance.png"),
    }
    artifacts = next((stage.root / "mlartifacts").glob("*/*/artifacts/trials.csv")).parent
    assert drawn | {"best.yaml"} <= {file.name for file in artifacts.iterdir()}


def test_the_best_trials_are_trained_at_length_on_another_seed(tuned: tuple[Stage, str]) -> None:
    stage, printed = tuned
    better = sorted(stage.trials()[1:], key=lambda trial: -float(trial["val_accuracy"]))
    names = ", ".join(f"confirm-{trial['trial']}" for trial in better)
    assert re.search(f"tune: {names}, confirm-0: at full length on another seed, about \\d+\\.\\d minutes\n", printed)
    reason = json.loads((stage.root / "report" / "chosen.json").read_text())["reason"]
    said = "; at full length on another seed: " + "".join(rf"trial {trial['trial']} ([01]\.\d+), " for trial in better)
    accuracies = re.search(rf"{said}params.yaml (0\.\d+); trial {chosen_trial(stage)} is taken$", reason)
    assert accuracies
    assert max(accuracies.groups()) == "1.0000" > accuracies[4]
    value = "select value from params join runs using (run_uuid) where runs.name like ? || ' %' and params.key = ?"
    rates = {f"confirm-{chosen_trial(stage)}": str(stage.best["learning_rate"]), "confirm-0": "1e-05"}
    for name, rate in rates.items():
        assert stage.query(value, name, "seed") == [("8",)]
        assert stage.query(value, name, "epochs") == [("4",)]
        assert stage.query(value, name, "learning_rate") == [(rate,)]


@pytest.mark.usefixtures("one_process")
def test_a_second_call_repeats_nothing_and_more_trials_continue(tuned: tuple[Stage, str]) -> None:
    stage, _ = tuned
    best = stage.best
    stage.call(tune.main)
    assert len(stage.trials()) == 4
    assert stage.best == best
    assert len(stage.query("select name from runs where name like 'confirm-0 %'")) == 1
    text = (stage.root / "params.yaml").read_text()
    text = text.replace("calibration: temperature", "calibration: none").replace("checkpoint: best", "checkpoint: last")
    (stage.root / "params.yaml").write_text(text.replace("trials: 4", "trials: 5"))  # no trial sees the others
    stage.call(tune.main)
    assert len(stage.trials()) == 5
    runs = [name for (name,) in stage.query("select name from runs")]
    assert runs.count("tune-cnn") == 1


@pytest.mark.usefixtures("one_process")
def test_trials_of_fewer_epochs_stay_when_train_gets_more(tuned: tuple[Stage, str], capsys: Any) -> None:
    stage, _ = tuned
    known = [trial["val_accuracy"] for trial in stage.trials()]
    text = (stage.root / "params.yaml").read_text()
    (stage.root / "params.yaml").write_text(
        text.replace("epochs: 4", "epochs: 5").replace("confirm: true", "confirm: 1.0e-9")
    )
    stage.call(tune.main)
    assert [trial["val_accuracy"] for trial in stage.trials()] == known
    assert re.search(
        r"not confirmed: that takes about [\d.e-]+ minutes, more than tune.confirm \(1e-09\)$", capsys.readouterr().err
    )


@pytest.mark.usefixtures("one_process")
def test_without_trials_no_value_is_replaced(tuned: tuple[Stage, str]) -> None:
    stage, _ = tuned
    text = (stage.root / "params.yaml").read_text()
    (stage.root / "params.yaml").write_text(re.sub("trials: [45]", "trials: 0", text))
    stage.call(tune.main)
    assert stage.best == {}


@pytest.mark.usefixtures("one_process")
def test_a_best_within_chance_keeps_the_values_of_params_yaml(stage: Stage) -> None:
    stage.params(space="{cnn: {label_smoothing: {float: [0.09, 0.11]}}}", trials="2")
    stage.call(tune.main)
    assert stage.best == {}
    assert "params.yaml" in json.loads((stage.root / "report" / "chosen.json").read_text())["reason"]


def test_without_trials_nothing_heavy_loads_and_best_is_empty(stage: Stage) -> None:
    stage.params(trials="0")
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('pipelines.tune', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'tensorflow', 'keras', 'optuna', 'mlflow', 'matplotlib'} & set(sys.modules)))\n"
    )
    arguments = ["--prepared", "none", "--augmented", "none", "--features", "none"]
    arguments += ["--best", "models/cnn/best.yaml", "--report", "report"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['tune', *{arguments!r}]\n{code}"],
        cwd=stage.root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0 []\n", done.stderr
    assert stage.best == {}
    assert stage.trials() == []


def test_without_trials_values_may_lie_outside_the_ranges(stage: Stage) -> None:
    stage.params(trials="0", space="{cnn: {learning_rate: {float: [0.2, 0.3]}}}")
    stage.call(tune.main)
    assert stage.best == {}


@pytest.mark.usefixtures("one_process")
def test_a_trial_that_diverges_fails_and_others_continue(stage: Stage) -> None:
    stage.params(
        train=train_section(learning_rate="1.0e+30"),
        space="{cnn: {learning_rate: {categorical: [1.0e+30, 0.1]}}}",
        sampler="grid",
    )
    stage.call(tune.main)
    states = [(trial["state"], trial["reason"]) for trial in stage.trials()]
    assert {state for state, _ in states} == {"complete", "failed"}
    assert all("training has diverged" in reason for state, reason in states if state == "failed")
    assert stage.best == {"learning_rate": 0.1}
    assert stage.runs()["trial-0"] == "FAILED"
    assert "training has diverged" in stage.tags("trial-0")["error"]


@pytest.mark.usefixtures("one_process")
def test_a_search_in_which_all_trials_fail_says_the_first_reason(stage: Stage) -> None:
    stage.params(
        train=train_section(learning_rate="1.0e+30"),
        space="{cnn: {learning_rate: {float: [1.0e+29, 1.0e+31], log: true}}}",
        trials="2",
    )
    with pytest.raises(TrainingError, match="^all 2 trials failed; the first, trial 0: .*training has diverged"):
        stage.call(tune.main)
    assert not (stage.root / "models").exists()
    assert stage.runs()["tune-cnn"] == "FAILED"


@pytest.mark.usefixtures("one_process")
def test_size_and_latency_are_measured_if_requested(stage: Stage) -> None:
    stage.params(
        objectives="[val_accuracy, model_bytes]",
        max_latency_ms="10000.0",
        space="{cnn: {architecture.filters: {categorical: [[4, 8], [64, 64]]}}}",
        sampler="grid",
        trials="3",
    )
    stage.call(tune.main)
    sizes = {trial["architecture.filters"]: float(trial["model_bytes"]) for trial in stage.trials()}
    assert sizes["[64,64]"] > 2 * sizes["[4,8]"]
    assert all(float(trial["latency_ms"]) > 0 for trial in stage.trials())
    assert (stage.root / "report" / "pareto.png").is_file()


def wait_for_runs(stage: Stage, process: "subprocess.Popen[str]", *names: str) -> None:
    end = time.monotonic() + SECONDS
    while not set(names) <= set(stage.runs()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.usefixtures("one_process")
def test_after_a_sigkill_of_the_stage_the_next_one_resumes(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.params(trials="3")
    process = stage.start()
    wait_for_runs(stage, process, "trial-1")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert stage.runs()["tune-cnn"] == "RUNNING"
    stage.call(tune.main)
    assert "tune: cnn: trial 1 was killed\n" in capsys.readouterr().err
    states = [trial["state"] for trial in stage.trials()]
    assert states.count("complete") == 3
    assert states[:2] == ["complete", "killed"], "trial 0 was not repeated"
    runs = stage.runs()
    assert runs["trial-1"] == "KILLED"
    assert "RUNNING" not in runs.values()
    assert runs["tune-cnn"] == "FINISHED"


def test_on_sigterm_trial_and_runs_are_closed_as_killed(stage: Stage) -> None:
    """And as long as it runs, a second tuning of the candidate is refused."""
    stage.params(trials="4", epochs="4")
    process = stage.start()
    wait_for_runs(stage, process, "trial-0")
    with pytest.raises(LockedError, match="held by another process"):
        stage.call(tune.main)
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert stage.runs() == {"tune-cnn": "KILLED", "trial-0": "KILLED"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "{cnn: {learning_rate: {float: [0.5, 0.1]}}}"}, r"tune.space.cnn: .*\[0.5, 0.1\].*lower one"),
        ({"space": "{cnn: {learning_rate: {float: [0.0, 0.1], log: true}}}"}, r"must start above 0"),
        (
            {"space": "{cnn: {learning_rat: {float: [0.0, 0.1]}}}"},
            r"no key 'learning_rat'.*did you mean 'learning_rate'",
        ),
        ({"space": "{cnn: {learning_rate: {float: [0.2, 0.3]}}}"}, r"learning_rate .*0\.1.*widen the range"),
        ({"space": "{cnn: {batch_size: {int: [0, 64]}}}"}, r"tune.space.cnn: batch_size: 0: train.cnn.batch_size is 0"),
        (
            {"space": "{cnn: {batch_size: {int: [8, 1000]}}}"},
            r"batch_size: 1000: batch_size is 1000, more than the 112",
        ),
        ({"space": "{transfer: {}}"}, r"tune.space has no section for the candidate 'cnn'; write `cnn: \{\}`"),
        ({"sampler": "annealing"}, r"tune.sampler is 'annealing': .*tpe.*grid"),
        ({"sampler": "grid"}, r"tune: .*a grid needs steps"),
        ({"sampler": "gp"}, r"sampler gp needs the package torch: .venv/bin/uv pip install torch; or use tpe"),
        ({"workers": "0"}, r"tune.workers is 0: .*greater than or equal to 1 or 'auto'"),
        ({"objectives": "[val_accuracy, latency_ms]", "pruner": "median"}, r"set pruner to none"),
        ({"objectives": "[latency_ms]"}, r"tune.objectives is \['latency_ms'\]: .*expected \[val_accuracy\]"),
        (
            {"storage": "postgresql://u:secret@127.0.0.1/d"},
            r"u:\*\*\*@127.0.0.1/d, which contains a password.* variable DARKROOM_TUNING_STORAGE",
        ),
        ({"storage": "studies.db"}, r"storage is 'studies.db'; expected null, the URL of a database"),
        ({"study": "''"}, r"tune.study is ''"),
    ],
)
def test_a_wrong_section_is_refused_before_tensorflow_is_loaded(
    untuned: Stage, changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    untuned.params(**changes)
    monkeypatch.chdir(untuned.root)
    monkeypatch.setattr(sys, "argv", ["tune", *untuned.arguments])
    with pytest.raises(ParamsError, match=message) as refused:
        tune.main()
    assert "\n" not in str(refused.value)
    assert not (untuned.root / "models").exists()


def test_an_unreachable_storage_is_named_without_its_password(stage: Stage) -> None:
    with pytest.raises(SearchError) as failed:
        stage.call(tune.main, DARKROOM_TUNING_STORAGE="postgresql://u:sec/ret@127.0.0.1:1/d")
    assert "the tuning storage postgresql://u:***@127.0.0.1:1/d does not answer" in str(failed.value)
    assert "ret@" not in str(failed.value)


@pytest.mark.usefixtures("one_process")
def test_a_named_study_of_another_space_is_refused(stage: Stage) -> None:
    stage.params(study="mine", trials="1")
    stage.call(tune.main)
    stage.params(study="mine", trials="1", space="{cnn: {learning_rate: {float: [0.02, 0.5]}}}")
    message = r"the study 'mine-cnn' in .* created with a different space, .* such as mine-\w{8}$"
    with pytest.raises(SearchError, match=message):
        stage.call(tune.main)


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            if any("popen_loky" in part for part in child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
def test_ten_sigkills_leave_thirty_trials_and_no_open_run(stage: Stage) -> None:
    stage.params(
        train=train_section(learning_rate="0.00001"),  # a trial 0 that is beaten
        trials="30",
        epochs="6",
        fraction="1.0",
        workers="2",
        sampler="random",
        space="{cnn: {learning_rate: {float: [0.00001, 0.3]}, label_smoothing: {float: [0.0, 0.2]}}}",
    )
    moments = np.random.default_rng(7)
    process = stage.start()
    for kill in range(10):
        n_before, end = len(stage.study()), time.monotonic() + SECONDS
        while len(stage.study()) <= n_before or not workers_of(process):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1.5))  # a trial takes about as long
        if kill % 2:
            process.kill()
            process.communicate()
            process = stage.start()
        else:
            moments.choice(np.array(workers_of(process), dtype=object)).kill()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    rows = stage.study()
    assert [row.state for row in rows].count("complete") == 30
    assert {row.state for row in rows} == {"complete", "killed"}
    assert "RUNNING" not in stage.runs().values()
    best = best_trial(rows)
    assert best is not None
    assert stage.best == best.params
