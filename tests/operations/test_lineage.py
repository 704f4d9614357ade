import json

import pytest

from darkroom.files.writing import sha256_of
from darkroom.operations import lineage
from darkroom.operations.lineage import LOCK_COMMIT
from darkroom.operations.workspace import Workspace
from darkroom.registry import register, versions
from darkroom.tracking import runs
from darkroom.tracking.store import client
from tests.support import shared_repository, trained_repository
from tests.support.shared_repository import LOCK

pytestmark = pytest.mark.heavy


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A repository with a remote, and in its store one run and one version of models/cnn."""
    here, _ = shared_repository.create(tmp_path, monkeypatch)
    trained_repository.fresh_store(here.root, monkeypatch)
    trained_repository.prepare(here.root)
    uri = trained_repository.train(here.root, reads=0)
    here.write({".git/info/exclude": "/mlflow.db*\n/mlartifacts/\n/reports/\n/data/prepared/\n"})
    register.register("pets", model_uri=uri, model_sha256=sha256_of(here.root / "models/cnn/model.onnx"), tags={})
    return here


def on_version():
    return versions.read("pets").versions["1"].tags.get(LOCK_COMMIT)


def on_run(here):
    return (runs.tags_of(lineage.trained_runs(here.tree)["cnn"]) or {}).get(LOCK_COMMIT)


def test_version_and_run_lead_to_the_commit_of_their_lock(here):
    first = here.commit(dvc_lock=LOCK.format("new"))
    here.commit(notes_txt="later\n")
    lineage.record(here.tree, "pets", new=True)
    assert (on_version(), on_run(here)) == (first, first)
    here.commit(dvc_lock=LOCK.format("newer"))
    lineage.record(here.tree, "pets", new=True)
    assert (on_version(), on_run(here)) == (first, first)


def test_a_commit_that_was_moved_is_recorded_again(here):
    moved = here.commit(dvc_lock=LOCK.format("new"))
    lineage.record(here.tree, "pets", new=True)
    here.git("commit", "--quiet", "--amend", "--message", "as a rebase does")
    assert on_version() == moved
    lineage.record(here.tree, "pets", new=False)
    assert on_version() == on_run(here) == here.git("rev-parse", "HEAD") != moved


def test_a_commit_that_a_shallow_clone_lacks_stays(here, monkeypatch, tmp_path):
    first = here.commit(dvc_lock=LOCK.format("new"))
    lineage.record(here.tree, "pets", new=True)
    here.commit(notes_txt="later\n")
    here.push()
    shallow = tmp_path / "shallow"
    here.git("clone", "--quiet", "--depth", "1", f"file://{tmp_path / 'remote.git'}", str(shallow))
    (shallow / "models").symlink_to(here.root / "models")
    lineage.record(Workspace(shallow, log=tmp_path / "log.txt"), "pets", new=True)
    assert on_version() == on_run(here) == first


def test_a_deleted_run_keeps_no_other_from_its_commit(here, capsys):
    first, opened = here.commit(dvc_lock=LOCK.format("new")), client()
    trained = [opened.create_run("0").info.run_id for _ in range(4)]
    for number, run_id in enumerate(trained):
        here.write({f"models/net{number}/run.json": json.dumps({"run_id": run_id})})
    for run_id in trained[:2]:
        opened.delete_run(run_id)
    lineage.record(here.tree, "pets", new=True)
    assert capsys.readouterr().err == ""
    tags = [opened.get_run(run_id).data.tags.get(LOCK_COMMIT) for run_id in trained]
    assert tags == [None, None, first, first]


def test_an_uncommitted_lock_is_no_commits_result(here):
    here.write({"dvc.lock": LOCK.format("by hand")})
    lineage.record(here.tree, "pets", new=False)
    assert (on_version(), on_run(here)) == (None, None)


def test_a_silent_store_is_reported_and_asked_later(here, monkeypatch, capsys):
    here.commit(dvc_lock=LOCK.format("new"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lineage.record(here.tree, "pets", new=True)
    assert (
        "could not be recorded in MLflow: the MLflow store http://127.0.0.1:1 does not answer"
        in capsys.readouterr().err
    )
