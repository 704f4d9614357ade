import json
import os
import subprocess
import sys

import psutil
import pytest

from darkroom.operations.undo import MARK, WorkInProgress, end, free_dvc_locks, lock_is_valid, processes_of


@pytest.fixture
def work(tmp_path):
    (tmp_path / "data" / "incoming").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    (tmp_path / "data" / "incoming" / "cat.dvc").write_text("outs: []\n")
    return WorkInProgress(tmp_path)


WRITES = ["dvc.lock", "data/incoming/cat.dvc", "data/incoming/dog.dvc"]
DOG = "data/incoming/dog.dvc"


def killed(work, **files):
    """Begin a run, let it write what the keywords say (`lock`, `cat`, `dog`) and note it; return what it wrote down."""
    state = work.begin({"started": "now"}, writes=WRITES)
    for name, text in files.items():
        (work.root / {"lock": "dvc.lock"}.get(name, f"data/incoming/{name}.dvc")).write_text(text)
    return work.note({**state, "left": work.contents(state)})


def test_small_files_are_put_back_and_new_ones_removed(work):
    state = killed(work, lock="stages: {train: {}}\n", cat="outs: [new]\n", dog="outs: []\n")
    assert work.restore(state, committed=()) == WRITES
    assert (work.root / "dvc.lock").read_text() == "stages: {}\n"
    assert (work.root / "data/incoming/cat.dvc").read_text() == "outs: []\n"
    assert not (work.root / DOG).exists()


def test_a_file_that_arrived_meanwhile_stays(work):
    state = killed(work, dog="outs: []\n")
    (work.root / "data/incoming/bird.dvc").write_text("outs: [of somebody else]\n")
    assert work.restore(state, committed=()) == [DOG]
    assert (work.root / "data/incoming/bird.dvc").read_text() == "outs: [of somebody else]\n"


@pytest.mark.parametrize("text", ["stages: {by_hand: {}}\n", "<<<<<<< HEAD\nstages: {}\n=======\n>>>>>>> other\n"])
def test_what_somebody_changed_after_the_kill_stays(work, text):
    state = killed(work, lock="stages: {train: {}}\n", dog="outs: []\n")
    (work.root / "dvc.lock").write_text(text)
    (work.root / DOG).write_text("outs: [more]\n")
    assert work.restore(state, committed=()) == []
    assert (work.root / "dvc.lock").read_text() == text
    assert (work.root / DOG).read_text() == "outs: [more]\n"


def test_what_somebody_deleted_after_the_kill_stays_away(work):
    state = killed(work, cat="outs: [new]\n")
    (work.root / "data/incoming/cat.dvc").unlink()
    assert work.restore(state, committed=()) == []
    assert not (work.root / "data/incoming/cat.dvc").exists()


def test_what_was_committed_meanwhile_stays(work):
    state = killed(work, lock="stages: {train: {}}\n", dog="outs: []\n")
    assert work.restore(state, committed={DOG}) == ["dvc.lock"]
    assert (work.root / DOG).exists()


@pytest.mark.parametrize("cut", ["", "stages: {tra"])
def test_a_lock_that_the_kill_cut_short_is_put_back_unseen(work, cut):
    state = killed(work)
    (work.root / "dvc.lock").write_text(cut)
    assert work.restore(state, committed=()) == ["dvc.lock"]
    assert (work.root / "dvc.lock").read_text() == "stages: {}\n"


def test_what_was_put_back_once_is_not_put_back_over_later_work(work):
    work.restore(killed(work), committed=())
    (work.root / "dvc.lock").write_text("later\n")
    assert work.restore(work.state(), committed=()) == []
    assert (work.root / "dvc.lock").read_text() == "later\n"


def test_the_state_is_there_until_the_run_is_through(work):
    assert work.state() is None
    assert work.begin({"started": "now"}, writes=WRITES)["token"] == work.state()["token"]
    work.finish()
    assert work.state() is None


def test_a_first_run_that_failed_leaves_no_lock(work):
    (work.root / "dvc.lock").unlink()
    work.restore(killed(work, lock="stages: {train: {}}\n"), committed=())
    assert not (work.root / "dvc.lock").exists()


def test_a_lock_that_was_cut_short_is_noticed(tmp_path):
    path = tmp_path / "dvc.lock"
    assert lock_is_valid(path)
    path.write_text("schema: '2.0'\nstages:\n  train: {}\n")
    assert lock_is_valid(path)
    for cut in ("", "schema: '2.0'\nstages:\n  train: {\n", "schema: '2"):
        path.write_text(cut)
        assert not lock_is_valid(path)


def test_orphans_are_found_by_their_mark_and_ended():
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, MARK: "token-of-this-test"}, check=True)
    (orphan,) = processes_of("token-of-this-test")
    assert orphan.name() == "sleep"
    end([orphan])
    assert not psutil.pid_exists(orphan.pid) or orphan.status() == psutil.STATUS_ZOMBIE


def test_what_ignores_sigterm_is_killed():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        end([psutil.Process(stubborn.pid)], grace=0.2)
        assert not psutil.pid_exists(stubborn.pid)


def test_locks_of_killed_processes_alone_are_freed(tmp_path):
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    mine, other = {"pid": 7, "cmd": "dvc repro"}, {"pid": 8, "cmd": "dvc pull"}
    path.write_text(json.dumps({"read": {"data": [mine, other], "src": [mine]}, "write": {"models": mine, "x": other}}))
    free_dvc_locks(tmp_path, [7])
    assert json.loads(path.read_text()) == {"read": {"data": [other]}, "write": {"x": other}}


def test_an_unreadable_file_of_locks_is_removed(tmp_path):
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    free_dvc_locks(tmp_path, [])
    path.parent.mkdir(parents=True)
    path.write_text('{"read": {"da')
    free_dvc_locks(tmp_path, [])
    assert not path.exists()
