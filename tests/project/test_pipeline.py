"""The whole flow as a user runs it: `dvc repro` on a clone, with real DVC, MLflow and training."""

import json
import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from tests.support.pages import Example, agree, examples
from tests.support.project import ROOT, Project

pytestmark = [pytest.mark.heavy]


@pytest.fixture(scope="module")
def promoted(project: Project) -> Project:
    """The clone after its first `dvc repro`."""
    project.run("dvc", "repro")
    return project


def load(project: Project, path: str) -> dict[str, Any]:
    return dict(json.loads(project.read(path)))


def query(project: Project, sql: str, *values: str) -> list[tuple[Any, ...]]:
    """Ask the store's database itself: what the MLflow UI would show."""
    connection = sqlite3.connect(project.root / "mlflow.db")
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


@contextmanager
def change(project: Project, pattern: str, new: str) -> Iterator[None]:
    """Change params.yaml, and put it back afterwards."""
    params = project.root / "params.yaml"
    before = params.read_text()
    changed = re.sub(pattern, lambda _: new, before, count=1, flags=re.MULTILINE)
    assert changed != before
    params.write_text(changed)
    try:
        yield
    finally:
        params.write_text(before)


def stages(printed: str) -> list[str]:
    return re.findall(r"Running stage '([\w@]+)'", printed)


def test_one_command_ends_with_a_promoted_model(promoted: Project) -> None:
    run = load(promoted, "models/cnn/run.json")
    assert set(run) == {
        "run_id", "experiment", "tracking_uri", "model_uri", "candidate", "git_commit", "git_dirty", "data_digest",
        "params_digest", "params", "held_out_accuracy", "held_out_images", "best_epoch", "val_accuracy", "val_loss",
        "train_seconds",
    }  # fmt: skip
    evaluation = load(promoted, "reports/evaluation.json")
    assert set(evaluation) == {"test_ids_sha256", "winner", "candidates"}
    scores = evaluation["candidates"]["cnn"]
    assert {
        "test_accuracy", "test_accuracy_ci95", "test_loss", "macro_f1", "ece", "per_class", "latency_ms_p50",
        "latency_ms_p95", "model_bytes",
    } <= set(scores)  # fmt: skip
    assert scores["test_accuracy"] > 0.9
    assert scores["test_accuracy_ci95"][0] <= scores["test_accuracy"] <= scores["test_accuracy_ci95"][1]
    promotion = load(promoted, "reports/promotion.json")
    assert set(promotion) == {
        "decision", "reasons", "registered_model", "version", "champion_before", "champion_after", "tests",
    }  # fmt: skip
    assert promotion["decision"] == "promoted"
    assert promotion["champion_before"] is None


@pytest.mark.parametrize("example", examples("smoke"), ids=lambda example: example.command)
def test_a_command_of_the_docs_answers_so(promoted: Project, example: Example) -> None:
    printed = promoted.run(*example.command.split())
    assert agree(example.answer, printed, root=promoted.root), printed


def test_lineage_reads_from_the_version_back_to_commit_and_data(promoted: Project) -> None:
    run = load(promoted, "models/cnn/run.json")
    tags = dict(query(promoted, "select key, value from model_version_tags where name = 'digits' and version = 1"))
    commit = promoted.run("git", "rev-parse", "HEAD").strip()
    assert (tags["git.commit"], tags["git.dirty"]) == (commit, "false")
    assert (tags["data.digest"], tags["params.digest"]) == (run["data_digest"], run["params_digest"])
    assert tags["candidate"] == "cnn"
    (run_id,) = query(promoted, "select run_id from model_versions where name = 'digits' and version = 1")[0]
    assert run_id == run["run_id"]
    assert dict(query(promoted, "select key, value from tags where run_uuid = ?", run_id))["git.commit"] == commit


def test_the_run_holds_curves_and_test_metrics(promoted: Project) -> None:
    run_id = load(promoted, "models/cnn/run.json")["run_id"]
    steps = query(promoted, "select key, step from metrics where run_uuid = ? and key = 'epoch/val_accuracy'", run_id)
    assert sorted(step for _, step in steps) == list(range(1, 9))
    keys = {key for (key,) in query(promoted, "select distinct key from metrics where run_uuid = ?", run_id)}
    assert {
        "train_loss", "val_loss", "train_accuracy", "val_accuracy", "epoch/learning_rate", "epoch/images_per_second",
        "test_accuracy", "macro_f1", "ece",
    } <= keys  # fmt: skip
    assert query(promoted, "select status from runs where run_uuid = ?", run_id) == [("FINISHED",)]


def test_a_second_repro_only_checks_and_looks_at_the_registry(promoted: Project) -> None:
    versions = query(promoted, "select count(*) from model_versions")
    printed = promoted.run("dvc", "repro")
    assert stages(printed) == ["check", "promote"]
    assert load(promoted, "reports/promotion.json")["decision"] == "unchanged"
    assert query(promoted, "select count(*) from model_versions") == versions


def test_predict_answers_from_the_champion_without_tensorflow(promoted: Project, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    files = []
    for position in range(20):
        files.append(tmp_path / f"{position} ä.png")
        cv2.imwrite(str(files[-1]), (digits.images[position] * 255 / 16).round().astype(np.uint8))
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("tensorflow", "keras"):
        (blocked / f"{name}.py").write_text("raise ImportError('predict must not load this')")
    printed = promoted.run("darkroom", "predict", *map(str, files), environment={"PYTHONPATH": str(blocked)})
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    assert set(answers[0]) == {"file", "label", "probability", "model", "version"}
    right = sum(answer["label"] == str(digits.target[position]) for position, answer in enumerate(answers))
    assert right >= 18


def test_the_summary_names_winner_decision_and_version(promoted: Project) -> None:
    printed = promoted.run("darkroom", "report")
    for part in ("cnn", "95 %", "digits", "make ui"):
        assert part in printed


def test_dvc_shows_metrics_and_plots(promoted: Project) -> None:
    shown = json.loads(promoted.run("dvc", "metrics", "show", "--json"))
    assert shown[""]["data"]["models/cnn/metrics.json"]["data"]["cnn"]["val_accuracy"] > 0.9
    promoted.run("git", "add", "--all")
    promoted.run("git", "commit", "--quiet", "--message", "first")
    for command in (["show"], ["diff", "HEAD"]):
        promoted.run("dvc", "plots", *command, "--out", "plots")
        page = (promoted.root / "plots" / "index.html").read_text()
        for name in ("Test images by true and predicted class", "Accuracy against confidence", "Recall per class"):
            assert name in page
        assert "<DVC_METRIC" not in page
        shutil.rmtree(promoted.root / "plots")


class Resumed(NamedTuple):
    """What came of a second candidate whose training was killed.

    Attributes:
        run_id: of the killed training.
        before, after: what the killed `dvc repro` and the next one printed.
        evaluated: the candidates that the latter evaluated.
    """

    run_id: str
    before: str
    after: str
    evaluated: list[str]


@pytest.fixture(scope="module")
def resumed(promoted: Project) -> Resumed:
    """Add a candidate, kill its training, run again; params.yaml is as before afterwards."""
    (section,) = re.findall(r"^  cnn:\n(?:    .*\n)+", promoted.read("params.yaml"), re.MULTILINE)
    other = section.replace("  cnn:", "  other:").replace("epochs: 8", "epochs: 12")
    with (
        change(promoted, re.escape(section), section + other),
        change(promoted, r"^  space:.*\n", "  space:\n    other: {}\n"),
        change(promoted, r"^candidates: \[cnn\]", "candidates: [cnn, other]"),
    ):
        before = ""
        with promoted.start("dvc", "repro", "evaluate") as first:
            assert first.stdout is not None
            for line in first.stdout:
                before += line
                if line.startswith("epoch 3/12"):
                    os.killpg(first.pid, signal.SIGKILL)
        ((killed,),) = query(promoted, "select run_uuid from runs where status = 'RUNNING'")
        after = promoted.run("dvc", "repro", "evaluate")
        return Resumed(killed, before, after, list(load(promoted, "reports/evaluation.json")["candidates"]))


def test_a_killed_training_resumes_where_it_was_in_the_same_run(promoted: Project, resumed: Resumed) -> None:
    epochs = [int(number) for number in re.findall(r"^epoch (\d+)/12", resumed.after, re.MULTILINE)]
    assert epochs[0] in (3, 4, 5, 6), "at most the epoch of the kill is run again"
    assert epochs == list(range(epochs[0], 13))
    assert load(promoted, "models/other/run.json")["run_id"] == resumed.run_id
    assert len(promoted.read("models/other/history.csv").splitlines()) == 13
    steps = query(
        promoted,
        "select distinct step from metrics where run_uuid = ? and key = 'epoch/val_loss' order by step",
        resumed.run_id,
    )
    assert [step for (step,) in steps] == list(range(1, 13))
    assert query(promoted, "select status from runs where run_uuid = ?", resumed.run_id) == [("FINISHED",)]


def test_the_list_of_candidates_decides_what_is_trained(promoted: Project, resumed: Resumed) -> None:
    assert stages(resumed.before) == ["check", "tune@other", "train@other"]
    assert stages(resumed.after) == ["check", "train@other", "evaluate"]
    assert resumed.evaluated == ["cnn", "other"]
    assert "Running stage 'train" not in promoted.run("dvc", "repro", "evaluate")
    assert (promoted.root / "models" / "other" / "model.onnx").is_file(), "DVC leaves it where it was"
    assert list(load(promoted, "reports/evaluation.json")["candidates"]) == ["cnn"]
    with change(promoted, r"^candidates: \[cnn\]", "candidates: [cmm]"):
        printed = promoted.run("dvc", "repro", status=255)
    assert "error: params.yaml: candidates names 'cmm', but train has no such section" in printed


def test_a_queued_experiment_is_recorded_and_promotes_nothing(promoted: Project) -> None:
    promoted.run("dvc", "repro")
    promoted.run("git", "add", "--all")
    promoted.run("git", "commit", "--quiet", "--message", "lock", "--allow-empty")
    before = query(promoted, "select count(*) from runs")[0][0]
    champion = query(promoted, "select version from registered_model_aliases where alias = 'champion'")
    promoted.run("dvc", "exp", "run", "--queue", "--name", "short", "-S", "train.cnn.epochs=1")
    promoted.run("dvc", "exp", "run", "--run-all", "--jobs", "1")
    assert query(promoted, "select count(*) from runs")[0][0] == before + 1
    names = query(promoted, "select value from tags where key = 'dvc.exp_name' and value != 'none'")
    assert names == [("short",)]
    assert query(promoted, "select version from registered_model_aliases where alias = 'champion'") == champion
    shown = promoted.run("dvc", "exp", "show", "--json")
    assert "short" in shown
    assert "test_accuracy" in shown
    difference = json.loads(promoted.run("dvc", "metrics", "diff", "HEAD", "short", "--json"))
    change_of = difference["models/cnn/metrics.json"]["cnn.val_accuracy"]
    assert change_of["new"] < change_of["old"]


def test_dvc_sees_the_files_by_which_new_pictures_are_versioned(tmp_path):
    """DVC does not walk through what git ignores: a pattern that takes the directory too would lose its .dvc files."""
    project = Project(tmp_path)
    project.run("git", "init", "--quiet")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    project.run("dvc", "init", "--quiet")
    picture = tmp_path / "data" / "incoming" / "cat" / "1.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"a cat")
    project.run("dvc", "add", "--quiet", "data/incoming/cat")
    listed = "from dvc.repo import Repo; print([str(out) for out in Repo().index.outs])"
    assert "['data/incoming/cat']" in project.run(sys.executable, "-W", "ignore", "-c", listed)
    assert project.run("git", "check-ignore", "data/incoming/cat/1.png") == "data/incoming/cat/1.png\n"
    project.run("git", "check-ignore", "data/incoming/cat.dvc", status=1)
