import subprocess

import pytest

from darkroom.errors import DataError, TrainingError
from darkroom.operations import preflight
from tests.support import shared_repository


@pytest.fixture
def here(tmp_path, monkeypatch):
    return shared_repository.create(tmp_path, monkeypatch)[0]


def test_a_clean_branch_with_a_name_can_commit(here):
    preflight.check_merges(here.root)
    preflight.check_repository(here.tree)
    preflight.check_commit(here.tree)


def test_a_folder_without_git_cannot_commit(tmp_path):
    from darkroom.operations.workspace import Workspace

    with pytest.raises(
        TrainingError, match=r"is not a git repository \(not a git repository.*run `git init`, or retrain"
    ):
        preflight.check_repository(Workspace(tmp_path, log=tmp_path / "log.txt"))


def test_a_repository_of_another_user_is_named_with_the_remedy(here, monkeypatch):
    from darkroom.operations.workspace import Workspace

    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch
    with pytest.raises(TrainingError, match="which belongs to another user; run `git config --global --add safe.dir"):
        preflight.check_repository(Workspace(here.root, log=here.tree.log))


def test_a_git_without_a_name_is_told_before_the_training(here):
    here.git("config", "--unset", "user.name")
    here.git("config", "--unset", "user.email")
    here.git("config", "user.useConfigOnly", "true")
    with pytest.raises(
        TrainingError, match="git has no name and address to commit under; set them with `git config us"
    ):
        preflight.check_repository(here.tree)


@pytest.mark.parametrize("what", ["merge", "rebase", "cherry-pick", "revert"])
def test_what_is_unfinished_is_named_with_both_ways_out(here, what):
    old = here.git("rev-parse", "HEAD")
    here.git("checkout", "--quiet", "-b", "other")
    other = here.commit(notes_txt="theirs\n")
    here.git("checkout", "--quiet", "main")
    mine = here.commit(notes_txt="mine\n")
    here.commit(notes_txt="later\n")
    said = {"merge": ["other"], "rebase": ["other"], "cherry-pick": [other], "revert": ["--no-edit", mine]}[what]
    with pytest.raises(subprocess.CalledProcessError):
        here.git(what, *said)
    with pytest.raises(TrainingError, match=f"a {what} is unfinished in .*`git {what} --continue`, or undo it with"):
        preflight.check_repository(here.tree)
    here.git(what, "--abort")
    preflight.check_repository(here.tree)
    assert here.git("merge-base", old, "HEAD") == old


def test_an_index_that_a_killed_git_left_locked_is_named(here):
    (here.root / ".git" / "index.lock").touch()
    with pytest.raises(TrainingError, match=r"\.git/index\.lock exists: another git command .* delete the file"):
        preflight.check_repository(here.tree)


def test_a_detached_head_is_refused_since_its_commit_gets_lost(here):
    here.git("checkout", "--quiet", "--detach")
    with pytest.raises(TrainingError, match="HEAD is detached: a commit would be on no branch and get lost"):
        preflight.check_commit(here.tree)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "train.py", "src/a.py", "src/new.py"])
@pytest.mark.parametrize("staged", [False, True])
def test_an_uncommitted_input_is_refused_by_name(here, name, staged):
    before = (here.root / name).read_text() if (here.root / name).exists() else ""
    here.write({name: f"{before}# edited\n"})
    if staged:
        here.git("add", "--all")
    with pytest.raises(
        TrainingError, match=f"^{name} differs from the last commit, and --commit commits only dvc.lock"
    ):
        preflight.check_commit(here.tree)


def test_several_uncommitted_inputs_are_counted(here):
    here.write({"params.yaml": "train: 2\n", "train.py": "", "src/a.py": ""})
    with pytest.raises(TrainingError, match=r"^params.yaml and 2 more differs"):
        preflight.check_commit(here.tree)


def test_other_files_may_be_edited(here):
    here.write({"notes.txt": "more\n", "dvc.lock": shared_repository.LOCK.format("new"), "draft.txt": "new\n"})
    here.write({"data/incoming/cat.dvc": "outs: []\n", "data/incoming/cat/a.png": "image"})
    preflight.check_commit(here.tree)


def test_conflicts_are_reported_in_words_with_the_way_out(here):
    here.git("checkout", "--quiet", "-b", "other")
    here.commit(dvc_lock=shared_repository.LOCK.format("theirs"))
    here.git("checkout", "--quiet", "main")
    here.commit(dvc_lock=shared_repository.LOCK.format("mine"))
    with pytest.raises(subprocess.CalledProcessError):
        here.git("merge", "other")
    with pytest.raises(
        DataError, match=r"dvc.lock has conflicts of an unfinished merge; take either side with `git chec"
    ):
        preflight.check_merges(here.root)
    here.git("checkout", "--ours", "dvc.lock")  # the way out that it names
    here.git("add", "dvc.lock")
    here.git("commit", "--quiet", "--no-edit")
    preflight.check_merges(here.root)
    here.write({"data/incoming/cat.dvc": "<<<<<<< HEAD\nouts: []\n=======\n>>>>>>> other\n"})
    with pytest.raises(DataError, match=r"cat.dvc has conflicts of an unfinished merge; resolve them by hand"):
        preflight.check_merges(here.root)


def test_a_branch_without_an_upstream_is_named(here):
    here.git("checkout", "--quiet", "-b", "other")
    with pytest.raises(
        TrainingError, match="the branch other has no upstream .* `git push --set-upstream origin other`"
    ):
        preflight.check_remotes(here.tree)


@pytest.mark.heavy
def test_both_remotes_are_asked_before_the_training(here, tmp_path):
    here.tree.dvc("init", "--quiet")
    with pytest.raises(TrainingError, match="DVC's remote cannot be used: .*no remote.*`dvc remote add --default`"):
        preflight.check_remotes(here.tree)
    here.tree.dvc("remote", "add", "--default", "store", "s3://bucket/store")
    with pytest.raises(TrainingError, match="DVC's remote cannot be used: .*requires 'dvc-s3' to be installed"):
        preflight.check_remotes(here.tree)
    (tmp_path / "store").write_text("no folder")
    here.tree.dvc("remote", "modify", "store", "url", str(tmp_path / "store"))
    with pytest.raises(TrainingError, match="DVC's remote cannot be used: .*Not a directory"):
        preflight.check_remotes(here.tree)
    (tmp_path / "store").unlink()
    preflight.check_remotes(here.tree)
    before = here.upstream
    here.commit(notes_txt="not to be pushed by a check\n")
    preflight.check_push(here.tree)
    assert here.upstream == before
    (tmp_path / "remote.git").rename(tmp_path / "gone.git")
    with pytest.raises(TrainingError, match="`git push --dry-run` failed: .*correct address or rights of the remote"):
        preflight.check_push(here.tree)
