"""Retraining as a scheduler sees it: processes of their own on a repository with real DVC, git and registry."""

import hashlib
import json
import re
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.clients.champion import ChampionClient
from darkroom.monitoring.feedback import FeedbackLog, TrueLabel
from darkroom.monitoring.log import PredictionLog
from darkroom.monitoring.measures import FEATURES
from darkroom.operations.undo import lock_is_valid
from darkroom.registry import versions
from tests.support.retrained_repository import Retrained, create

pytestmark = pytest.mark.heavy
SEED = 7
LOG = ".darkroom/retrain/log.txt"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """The repository after its first run, which promoted version 1; the tests go on from each other's end."""
    return with_champion(tmp_path_factory.mktemp("retrained"))


def with_champion(root: Path) -> Retrained:
    project = create(root)
    report = project.retrain("--commit")
    assert (report["decision"], report["version_before"], report["version_after"]) == ("promoted", None, "1")
    return project


def fired(report: dict[str, Any]) -> list[str]:
    return [trigger["name"] for trigger in report["triggers"] if trigger["fired"]]


def ran(project: Retrained) -> list[str]:
    """The stages that the last run ran, in their order."""
    return re.findall(r"^Running stage '(\w+)'", project.read(LOG), re.M)


def history(project: Retrained, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("DVC_ROOT", str(project.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    return versions.read("pets").history()


def test_where_nothing_calls_for_it_nothing_runs(project):
    lock = project.read("dvc.lock")
    code = (
        "import sys; from darkroom.operations.retrain import retrain;"
        "from darkroom.operations.params import retrain_options;"
        "report = retrain(retrain_options(force=False, commit=False, push=False));"
        "print(report['decision'], sorted({'mlflow', 'tensorflow', 'keras', 'onnxruntime'} & set(sys.modules)))"
    )
    assert project.run(sys.executable, "-c", code).splitlines()[-1] == "nothing []"
    report = json.loads(project.read("reports/retrain.json"))
    assert fired(report) == []
    assert "Code, params and data match dvc.lock." in report["reasons"]
    assert (report["version_before"], report["version_after"]) == ("1", "1")
    assert project.read("dvc.lock") == lock
    assert not (project.root / "told-nothing.json").exists()


def test_new_images_are_versioned_trained_on_and_committed(project):
    project.drop("cat/a.png", b"a new cat")
    report = project.retrain("--commit")
    assert fired(report) == ["new_images"]
    assert report["triggers"][0]["numbers"]["new_per_class"] == {"cat": 1}
    assert report["decision"] == "unchanged"  # the images do not change what this model reads
    committed = project.run("git", "show", "--name-only", "--format=%s%n%b", "HEAD")
    assert committed.startswith("retrain: pets unchanged, champion 1 -> 1")
    assert "1 new images in data/incoming (cat 1)" in committed
    assert {"data/incoming/cat.dvc", "dvc.lock"} <= set(committed.splitlines())
    assert project.run("git", "status", "--porcelain") == ""
    assert project.retrain()["decision"] == "nothing"


def test_version_and_commit_lead_to_each_other(project, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(project.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    commit = versions.read("pets").versions["1"].tags["dvc.lock.commit"]
    message = project.run("git", "show", "--no-patch", "--format=%B", commit)
    assert message.startswith("retrain: pets promoted, champion none -> 1")
    assert f"- cnn: {json.loads(project.read('models/cnn/run.json'))['run_id']}" in message


def test_an_edit_that_is_not_committed_is_refused_at_once(project):
    lock = project.read("dvc.lock")
    before = project.read("params.yaml")
    project.reads(3)
    report = project.retrain("--commit", status=1)
    assert report["error"].startswith("params.yaml differs from the last commit, and --commit commits only dvc.lock")
    assert report["triggers"] == []
    assert project.read("dvc.lock") == lock
    (project.root / "params.yaml").write_text(before)


def test_silence_means_failure_if_a_heartbeat_is_requested(project):
    params = project.root / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("heartbeat: false", "heartbeat: true"))
    assert project.retrain()["decision"] == "nothing"
    told = project.root / "told-nothing.json"
    assert json.loads(told.read_text())["decision"] == "nothing"
    told.unlink()
    params.write_text(before)


def test_force_runs_every_stage_and_is_always_answered(project):
    report = project.retrain("--force")
    assert report["decision"] == "unchanged"
    assert ran(project) == ["download", "train", "promote"]
    assert json.loads(project.read("told-unchanged.json"))["trained"] == ["train"]


def test_an_old_champion_is_answered_with_the_data_of_now(project):
    params, told = project.root / "params.yaml", project.root / "told-unchanged.json"
    before = params.read_text()
    params.write_text(before.replace("max_champion_age_days: null", "max_champion_age_days: 0.0000001"))
    told.unlink()
    assert fired(project.retrain()) == ["champion_age"]
    assert ran(project) == ["download", "promote"]
    assert told.exists()
    (project.root / "served" / "set.txt").write_text("a larger dataset\n")
    project.retrain()
    assert ran(project) == ["download", "train", "promote"]
    assert project.read("data/raw/set.txt") == "a larger dataset\n"
    params.write_text(before)


def test_a_failure_is_told_though_the_report_cannot_be_written(project):
    project.drop("stray.png", b"of no class")
    report = project.root / "reports" / "retrain.json"
    report.unlink()
    report.mkdir()
    printed = project.run("darkroom", "retrain", status=1)
    assert "retrain: reports/retrain.json cannot be written: " in printed
    assert "stray.png" in printed.splitlines()[-1]
    assert "stray.png" in json.loads(project.read("told-failed.json"))["error"]
    report.rmdir()
    (project.root / "data/incoming/stray.png").unlink()


def test_a_failure_restores_everything_and_the_next_run_resumes(project):
    lock, onnx = project.read("dvc.lock"), (project.root / "models/cnn/model.onnx").read_bytes()
    project.reads(9)
    project.drop("dog/b.png", b"a new dog")
    report = project.retrain(status=1)
    assert report["decision"] == "failed"
    assert report["error"].startswith("`dvc repro` failed with exit code 255: there is no pixel 9; its output is in ")
    assert project.read("dvc.lock") == lock
    assert (project.root / "models/cnn/model.onnx").read_bytes() == onnx
    assert not (project.root / "data/incoming/dog.dvc").exists()
    assert (project.root / "data/incoming/dog/b.png").read_bytes() == b"a new dog"
    assert json.loads(project.read("told-failed.json"))["event"] == "failed"
    assert report["version_after"] is None
    assert json.loads(project.read(".darkroom/retrain/state.json"))["restored"], (
        "else the next run would undo later work"
    )
    project.reads(1)
    report = project.retrain()
    assert fired(report) == ["unfinished", "new_images"]
    assert report["decision"] == "kept"
    assert json.loads(project.read("told-kept.json"))["decision"] == "kept"


def test_where_nothing_was_trained_nothing_was_kept(project):
    """Though `promote` says of the candidate of the night before that it is kept, again."""
    params, told = project.root / "params.yaml", project.root / "told-unchanged.json"
    before = params.read_text()
    params.write_text(before.replace("max_champion_age_days: null", "max_champion_age_days: 0.0000001"))
    told.unlink()
    report = project.retrain()
    assert (fired(report), report["decision"], report["trained"]) == (["champion_age"], "unchanged", [])
    assert report["reasons"][0] == "Nothing was trained: nothing that a model depends on has changed."
    assert json.loads(told.read_text())["event"] == "unchanged"
    params.write_text(before)


def test_an_alarm_retrains_until_a_person_acknowledges_it(project):
    params = project.root / "params.yaml"
    before = params.read_text()
    changed = {"drift_log: null": "drift_log: log", "min_recent_accuracy: null": "min_recent_accuracy: 0.9"}
    for old, new in changed.items():
        params.write_text(params.read_text().replace(old, new))
    images = [hashlib.sha256(bytes([number])).hexdigest() for number in range(12)]
    now = datetime.now(UTC)
    row = {"time": now, "version": "1", "label": "cat", "confidence": 0.9, "width": 4, "height": 4}
    row |= dict.fromkeys(FEATURES, 0.5)
    with PredictionLog(project.root / "log") as log:
        log.append([{**row, "id": image} for image in images])
    FeedbackLog(project.root / "log").append(TrueLabel(image, "dog", now) for image in images)
    report = project.retrain()
    assert fired(report) == ["recent_accuracy"]
    assert "right on 0 of 12 labelled images" in report["triggers"][-1]["reason"]
    assert report["decision"] == "unchanged"
    assert project.run("darkroom", "acknowledge", "--reason", "a fair").startswith("recent_accuracy: acknowledged by ")
    report = project.retrain()
    assert (report["decision"], fired(report)) == ("nothing", [])
    assert [reason for reason in report["reasons"] if reason.endswith(": a fair")]
    params.write_text(before)
    assert "retrain.drift_log is null, so there is no alarm to" in project.run(
        "darkroom", "acknowledge", "--reason", "x", status=2
    )


def test_sigterm_ends_the_training_and_puts_everything_back(project):
    lock = project.read("dvc.lock")
    project.reads(0, seconds=60.0)
    (project.root / LOG).unlink()
    with project.start(sys.executable, "-m", "darkroom.cli.main", "retrain") as process:
        wait_for(lambda: (project.root / LOG).exists() and "train.py" in project.read(LOG))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert project.read("dvc.lock") == lock
    assert "stopped by SystemExit" in json.loads(project.read("reports/retrain.json"))["error"]


def test_dvc_run_by_hand_is_waited_for_by_the_next_run(project):
    project.reads(0, seconds=60.0)
    with project.start("dvc", "repro", "train") as by_hand:
        wait_for(lambda: (project.root / ".dvc/tmp/rwlock").exists() and "train" in project.read(".dvc/tmp/rwlock"))
        (project.root / "told-failed.json").unlink()
        report = project.retrain(status=75)
        by_hand.kill()
    assert report["decision"] == "locked"
    assert not (project.root / "told-failed.json").exists()
    assert "another DVC command is running here; try again later" in report["error"]


def test_after_a_kill_in_the_training_the_next_run_promotes(project, monkeypatch):
    project.reads(0, seconds=3.0)
    (project.root / LOG).unlink()
    with project.start(sys.executable, "-m", "darkroom.cli.main", "retrain") as process:
        wait_for(lambda: (project.root / LOG).exists() and "train.py" in project.read(LOG))
        process.kill()  # this process alone: its stages go on
    report = project.retrain()
    assert (report["decision"], report["version_before"], report["version_after"]) == ("promoted", "1", "2")
    assert lock_is_valid(project.root / "dvc.lock")
    moves = [(entry["from"], entry["to"]) for entry in history(project, monkeypatch) if entry["alias"] == "champion"]
    assert moves == [(None, "1"), ("1", "2")]


def test_a_successor_undoes_only_what_the_killed_run_did(project):
    """Files that arrived meanwhile stay: committed ones, new ones, and an edit of params.yaml."""
    project.drop("bird/of-another.png", b"a bird")
    project.run("dvc", "add", "--quiet", "data/incoming/bird")
    arrived = project.read("data/incoming/bird.dvc")
    (project.root / "data/incoming/bird.dvc").unlink()
    (project.root / "data/incoming/bird/of-another.png").unlink()
    (project.root / "data/incoming/bird").rmdir()
    project.reads(0, seconds=60.0)
    project.drop("cat/killed.png", b"one more cat")
    (project.root / LOG).unlink()
    with project.start(sys.executable, "-m", "darkroom.cli.main", "retrain") as process:
        wait_for(lambda: (project.root / LOG).exists() and "train.py" in project.read(LOG))
        process.kill()
    (project.root / "data/incoming/bird.dvc").write_text(arrived)
    (project.root / "notes.txt").write_text("not committed\n")
    project.run("git", "add", "data/incoming/bird.dvc")
    project.run("git", "commit", "--quiet", "--message", "images of birds", "--", "data/incoming/bird.dvc")
    project.run("dvc", "checkout", "--quiet", "data/incoming/bird.dvc")
    project.reads(9)  # so that the successor fails and puts back, too
    assert project.retrain(status=1)["error"].startswith("`dvc repro` failed with exit code 255: there is no pixel 9")
    assert project.read("data/incoming/bird.dvc") == arrived
    assert project.read("notes.txt") == "not committed\n"
    assert "reads: 9" in project.read("params.yaml")
    project.run("git", "checkout", "--quiet", "params.yaml")
    project.reads(0)
    assert fired(project.retrain())[0] == "unfinished"
    assert (project.root / "data/incoming/bird/of-another.png").read_bytes() == b"a bird"
    (project.root / "notes.txt").unlink()


@pytest.mark.slow
def test_kills_at_any_moment_never_take_the_champion_away(tmp_path, monkeypatch):
    """Also: orphans are ended, the lock is free, and the run that is left alone promotes what the others began."""
    draw = np.random.default_rng(SEED)
    project = with_champion(tmp_path)
    project.reads(0, seconds=1.0)
    before = history(project, monkeypatch)
    with ChampionClient("pets") as client:
        for _ in range(4):
            with project.start(sys.executable, "-m", "darkroom.cli.main", "retrain") as process:
                deadline = time.monotonic() + draw.uniform(0.5, 9.0)
                wait_for(lambda at=deadline, of=process: time.monotonic() > at or of.poll() is not None)
                process.kill()  # this process alone: its stages go on
        report = project.retrain()
    assert client.failures == []
    assert client.n_answers > 50
    assert report["decision"] == "promoted"
    assert (report["version_before"], report["version_after"]) == ("1", "2")
    assert lock_is_valid(project.root / "dvc.lock")
    after = history(project, monkeypatch)
    assert after[: len(before)] == before
    moves = [(entry["from"], entry["to"]) for entry in after if entry["alias"] == "champion"]
    assert moves == [(None, "1"), ("1", "2")]
    assert project.retrain()["decision"] == "nothing"
    assert json.loads(project.read("told-promoted.json"))["version_after"] == "2"


def test_what_is_pushed_can_be_had_elsewhere(project, tmp_path):
    remote = project.root / "remote"
    project.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", str(remote / "git"))
    project.run("git", "remote", "add", "origin", str(remote / "git"))
    project.run("git", "push", "--quiet", "--set-upstream", "origin", "main")
    project.run("dvc", "remote", "add", "--default", "store", str(remote / "dvc"))
    project.run("git", "commit", "--quiet", "--all", "--message", "a remote for data")
    project.drop("cat/pushed.png", b"another cat")
    report = project.retrain("--push")
    assert report["pushed"]
    project.run("git", "clone", "--quiet", str(remote / "git"), str(tmp_path / "other"))
    other = Retrained(tmp_path / "other")
    other.run("dvc", "pull", "--quiet")
    assert (other.root / "models/cnn/model.onnx").read_bytes() == (project.root / "models/cnn/model.onnx").read_bytes()
    assert (other.root / "data/incoming/cat/pushed.png").read_bytes() == b"another cat"


def test_a_foreign_commit_stops_no_night_and_is_kept(project, tmp_path):
    remote = project.root / "remote" / "git"
    other = foreign(project, tmp_path)
    (other.root / "notes.txt").write_text("of somebody else\n")
    push_all(other)
    project.drop("cat/after-a-foreign-commit.png", b"a cat of the next night")
    report = project.retrain("--push")
    assert (report["pushed"], report["error"]) == (True, None)
    assert project.read("notes.txt") == "of somebody else\n"
    assert project.run("git", f"--git-dir={remote}", "rev-parse", "main").strip() == report["commit"]


def test_a_refused_push_is_reported_and_repeated_the_next_night(project, tmp_path, monkeypatch):
    remote = project.root / "remote" / "git"
    hook = remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    project.drop("cat/refused.png", b"a cat of the night after")
    report = project.retrain("--push", status=1)
    assert (report["decision"], report["pushed"]) == ("unchanged", False)
    assert re.match(
        r"committed, but not pushed: `git push` failed: .*; the next `darkroom retrain --push`", report["error"]
    )
    assert json.loads(project.read("told-failed.json"))["error"] == report["error"]
    hook.unlink()
    other = foreign(project, tmp_path)
    (other.root / "notes.txt").write_text("meanwhile\n")
    push_all(other)
    report = project.retrain("--push")
    assert (report["decision"], report["pushed"], report["error"]) == ("nothing", True, None)
    listed = project.run("git", f"--git-dir={remote}", "log", "-1", "--name-only", "--format=%s", "main").splitlines()
    assert listed[0].startswith("retrain: pets unchanged")
    assert {"data/incoming/cat.dvc", "dvc.lock"} <= set(listed)
    monkeypatch.setenv("DVC_ROOT", str(project.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    recorded = {one.tags.get("dvc.lock.commit") for one in versions.read("pets").versions.values()} - {None}
    history = project.run("git", f"--git-dir={remote}", "rev-list", "main").split()
    assert recorded
    assert recorded <= set(history)


def test_where_both_sides_trained_the_result_is_made_again(project, tmp_path):
    lock = project.read("dvc.lock")
    other = foreign(project, tmp_path)
    (other.root / "dvc.lock").write_text(f"# of another host\n{lock}")
    push_all(other)
    project.drop("cat/of-both.png", b"a cat that both nights saw")
    project.retrain("--commit")
    report = project.retrain("--push")
    assert (fired(report), report["pushed"], report["error"]) == (["new_images"], True, None)
    assert project.run("git", "status", "--porcelain", "--untracked-files=no") == ""
    assert project.run("git", "rev-list", "--count", "@{upstream}..HEAD").strip() == "0"
    assert project.run("dvc", "status", "train").strip().endswith("Data and pipelines are up to date.")


def test_as_an_experiment_only_what_would_be_promoted_is_applied(project):
    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("mode: worktree", "mode: experiment"))
    project.reads(1)
    project.drop("bird/c.png", b"a new class")
    project.run("git", "commit", "--quiet", "--all", "--message", "as an experiment")
    lock = project.read("dvc.lock")
    report = project.retrain()
    assert (report["decision"], report["mode"]) == ("kept", "experiment")
    assert project.read("dvc.lock") == lock
    assert "retrain-" in project.run("dvc", "exp", "list", "--name-only")
    report = project.retrain()
    assert report["decision"] == "nothing"
    assert "dvc.lock is out of date (train), but an experiment has already run these changes." in report["reasons"]
    params.write_text(params.read_text().replace("registered_model: pets", "registered_model: no champion yet"))
    report = project.retrain()
    assert (report["decision"], report["version_after"]) == ("promoted", "1")
    assert project.read("dvc.lock") != lock


def test_a_lost_champion_comes_back_where_nights_are_experiments(project, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(project.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    champion = versions.find("no champion yet", alias="champion")
    versions.fetch(champion).unlink()
    report = project.retrain()
    assert (fired(report), report["decision"], report["version_after"]) == (["lost_champion"], "unchanged", "1")
    assert versions.damage(champion) == []


def test_an_experiment_that_waits_for_approval_is_applied_too(project):
    params, lock = project.root / "params.yaml", project.read("dvc.lock")
    settings = {"approval: automatic": "approval: manual", "from_experiments: false": "from_experiments: true"}
    for old, new in {**settings, "registered_model: no champion yet": "registered_model: approved"}.items():
        assert old in params.read_text()
        params.write_text(params.read_text().replace(old, new))
    assert project.retrain()["decision"] == "awaiting_approval"
    assert project.read("dvc.lock") != lock


def foreign(project: Retrained, tmp_path: Path) -> Retrained:
    """A clone of the remote, as somebody else has it."""
    project.run("git", "clone", "--quiet", str(project.root / "remote" / "git"), str(tmp_path / "foreign"))
    return Retrained(tmp_path / "foreign")


def push_all(other: Retrained) -> None:
    other.run("git", "add", "--all")
    other.run("git", "commit", "--quiet", "--message", "of somebody else")
    other.run("git", "push", "--quiet")


def wait_for(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
