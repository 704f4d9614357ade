from typing import Any

import pytest

from darkroom.errors import TrainingError
from darkroom.operations import publishing
from tests.support import shared_repository
from tests.support.shared_repository import LOCK


@pytest.fixture
def clones(tmp_path, monkeypatch):
    return shared_repository.create(tmp_path, monkeypatch)


@pytest.fixture
def here(clones):
    return clones[0]


@pytest.fixture
def there(clones):
    return clones[1]


def without_data(here):
    """DVC has nothing to push in these tests; its own remote is tried in test_retrain."""
    here.tree.dvc("init", "--quiet")
    here.tree.dvc("remote", "add", "--quiet", "--default", "store", str(here.root.parent / "store"))
    here.commit()


def no_images(names):
    """Stand for a retraining that hears of no new images of others, or of some that the test does not look at."""


def catch_up(clone):
    clone.git("fetch", "--quiet")
    return publishing.catch_up(clone.tree, on_images=no_images)


def push(clone):
    publishing.push(clone.tree, on_images=no_images)


def test_where_nobody_pushed_nothing_moves(here):
    here.commit(notes_txt="mine\n")
    assert catch_up(here) == (False, False)
    assert publishing.unpushed(here.tree) == 1


def test_commits_of_others_are_taken_over(here, there):
    theirs = there.commit(params_yaml="train: 2\n")
    there.push()
    here.write({"notes.txt": "edited and not committed\n"})
    assert catch_up(here) == (True, False)
    assert here.git("rev-parse", "HEAD") == theirs
    assert (here.root / "params.yaml").read_text() == "train: 2\n"
    assert (here.root / "notes.txt").read_text() == "edited and not committed\n"


def test_an_edit_in_the_way_is_neither_lost_nor_ignored(here, there):
    there.commit(dvc_lock=LOCK.format("theirs"))
    there.push()
    here.write({"dvc.lock": LOCK.format("of a dvc repro by hand")})
    before = here.git("rev-parse", "HEAD")
    with pytest.raises(
        TrainingError, match="cannot be taken over: Your local changes .* Commit or undo the uncommitted"
    ):
        catch_up(here)
    assert here.git("rev-parse", "HEAD") == before
    assert (here.root / "dvc.lock").read_text() == LOCK.format("of a dvc repro by hand")


def test_commits_here_are_moved_behind_those_of_others(here, there):
    here.commit(dvc_lock=LOCK.format("mine"), data__incoming__cat_dvc="outs: []\n")
    theirs = there.commit(notes_txt="theirs\n")
    there.push()
    assert catch_up(here) == (True, False)
    assert here.git("rev-parse", "HEAD^") == theirs
    assert (here.root / "dvc.lock").read_text() == LOCK.format("mine")


def test_a_lock_that_both_changed_is_theirs_as_a_whole(here, there):
    """And the commit keeps what else it brought."""
    here.commit(dvc_lock=LOCK.format("mine"), data__incoming__cat_dvc="outs: []\n")
    there.commit(dvc_lock=LOCK.format("theirs"))
    there.push()
    assert catch_up(here) == (True, True)
    assert (here.root / "dvc.lock").read_text() == LOCK.format("theirs")
    assert here.git("show", "--name-only", "--format=", "HEAD") == "data/incoming/cat.dvc"


def test_other_conflicts_leave_everything_as_it_was(here, there):
    mine = here.commit(data__incoming__cat_dvc="outs: [mine]\n")
    there.commit(data__incoming__cat_dvc="outs: [theirs]\n")
    there.push()
    with pytest.raises(
        TrainingError, match="cannot be moved behind those pushed by others: .*; do it by hand with `git"
    ):
        catch_up(here)
    assert here.git("rev-parse", "HEAD") == mine
    assert here.git("status", "--porcelain") == ""
    assert here.git("symbolic-ref", "--short", "HEAD") == "main"


@pytest.mark.heavy
def test_a_refused_push_is_moved_behind_and_repeated(here, there):
    without_data(here)
    here.commit(dvc_lock=LOCK.format("mine"))
    theirs = there.commit(notes_txt="theirs\n")
    there.push()
    push(here)
    assert here.upstream == here.git("rev-parse", "HEAD")
    assert theirs in here.git("rev-list", "HEAD").split()
    assert publishing.unpushed(here.tree) == 0


@pytest.mark.heavy
def test_two_results_are_not_mixed_but_kept_for_the_next_night(here, there):
    without_data(here)
    mine = here.commit(dvc_lock=LOCK.format("mine"))
    theirs = there.commit(dvc_lock=f"# at the other end\n{LOCK.format('old')}")  # git alone would merge the lines
    there.push()
    with pytest.raises(TrainingError, match="cannot be moved behind those pushed by others"):
        push(here)
    assert (here.upstream, here.git("rev-parse", "HEAD")) == (theirs, mine)
    assert catch_up(here) == (True, True)


@pytest.mark.heavy
def test_a_remote_that_refuses_for_good_is_not_asked_for_ever(here, tmp_path):
    without_data(here)
    here.commit(dvc_lock=LOCK.format("mine"))
    hook = tmp_path / "remote.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no pushes at night >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(TrainingError, match="`git push` failed: .*"):
        push(here)
    assert publishing.unpushed(here.tree) == 2


@pytest.mark.heavy
def test_images_of_two_hosts_never_replace_each_other(here, there):
    without_data(here)
    here.write({"data/incoming/cat/a.png": "a cat", "data/incoming/dog/a.png": "a dog"})
    here.tree.dvc("add", "--quiet", "data/incoming/cat", "data/incoming/dog")
    here.commit()
    push(here)
    there.git("pull", "--quiet")
    there.tree.dvc("pull", "--quiet", "data/incoming/cat.dvc")
    there.write({"data/incoming/cat/b.png": "another cat", "data/incoming/bird/a.png": "a bird"})
    there.tree.dvc("add", "--quiet", "data/incoming/cat", "data/incoming/bird")
    there.commit()
    push(there)
    here.write({"data/incoming/dog/b.png": "another dog"})
    publishing.refuse_mixed_images(here.tree)
    for name in ("cat", "bird"):
        path = here.root / "data" / "incoming" / name / "mine.png"
        path.parent.mkdir(exist_ok=True)
        path.write_text("not versioned yet")
        with pytest.raises(
            TrainingError, match=f"^data/incoming/{name} holds new images, and others pushed a change of"
        ):
            publishing.refuse_mixed_images(here.tree)
        path.unlink()
    named: list[list[str]] = []
    publishing.catch_up(here.tree, on_images=named.append)
    assert named == [["data/incoming/bird.dvc", "data/incoming/cat.dvc"]]


def test_the_message_of_a_commit_leads_to_its_runs():
    trigger = {"fired": True, "reason": "3 new images."}
    report: dict[str, Any] = {"registered_model": "pets", "decision": "promoted"}
    report |= {"version_before": "1", "version_after": "2"}
    report |= {"triggers": [trigger, {"fired": False, "reason": "not drifted"}], "reasons": ["better"]}
    said = publishing.message(report, {"cnn": "a" * 32})
    assert said.splitlines()[0] == "retrain: pets promoted, champion 1 -> 2"
    assert said.endswith(f"MLflow runs:\n- cnn: {'a' * 32}")
    assert "not drifted" not in said
