import subprocess

import pytest

from darkroom.errors import DataError
from darkroom.tracking import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *command]
        subprocess.run(git, check=True, cwd=tmp_path)
    return tmp_path


def test_a_clean_checkout_has_a_commit_and_is_not_dirty(repository):
    assert len(provenance.git_commit()) == 40
    assert not provenance.git_dirty()


def test_an_edit_makes_it_dirty(repository):
    (repository / "code.py").write_text("a = 2\n")
    assert provenance.git_dirty()


def test_dvc_lock_and_untracked_files_do_not_make_it_dirty(repository):
    (repository / "dvc.lock").write_text("stages: {train: {}}\n")
    (repository / "notes.txt").write_text("x")
    assert not provenance.git_dirty()


def test_the_names_of_new_images_do_not_make_it_dirty(repository):
    names = repository / "data" / "incoming" / "cat.dvc"
    names.parent.mkdir(parents=True)
    names.write_text("outs: []\n")
    for command in (["add", "."], ["commit", "-qm", "second"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *command], check=True)
    names.write_text("outs: [new]\n")
    assert not provenance.git_dirty()
    (repository / "code.py").write_text("a = 2\n")
    assert provenance.git_dirty()


def test_a_lock_in_conflict_has_no_digest(repository):
    (repository / "dvc.lock").write_text("<<<<<<< HEAD\nstages: {}\n=======\nstages: {a: {}}\n>>>>>>> other\n")
    with pytest.raises(DataError, match="dvc.lock has conflicts of an unfinished merge; take either side"):
        provenance.lock_digest(repository / "dvc.lock")


def test_a_subfolder_sees_edits_above_it(repository, monkeypatch):
    (repository / "sub").mkdir()
    (repository / "code.py").write_text("a = 2\n")
    monkeypatch.chdir(repository / "sub")
    assert provenance.git_dirty()


def test_outside_a_git_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit() == "unknown"
    assert provenance.git_dirty()


def test_without_the_git_program_the_commit_is_unknown(repository, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance.git_commit() == "unknown"


def test_every_lineage_tag_is_there_as_text(repository, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@cnn")
    monkeypatch.setenv("DVC_EXP_NAME", "husky-gown")
    tags = provenance.lineage_tags(data_digest="d", params_digest="p", candidate="cnn")
    assert set(tags) == set(provenance.LINEAGE)
    assert tags["dvc.stage"] == "train@cnn"
    assert tags["dvc.exp_name"] == "husky-gown"
    assert tags["git.dirty"] == "false"
    assert all(isinstance(value, str) for value in tags.values())


def test_versions_name_python_and_installed_packages_only():
    versions = provenance.versions(("numpy", "no-such-package"))
    assert set(versions) == {"python", "numpy"}


def test_the_lock_digest_leaves_out_what_changes_no_result(tmp_path):
    lock = tmp_path / "dvc.lock"
    assert provenance.lock_digest(lock) == "none"
    lock.write_text("stages: {train: {md5: a}}\n")
    before = provenance.lock_digest(lock)
    lock.write_text("stages:\n  check: {md5: d}\n  promote: {md5: b}\n  train: {md5: a}\n")
    assert provenance.lock_digest(lock) == before
    lock.write_text("stages: {train: {md5: c}}\n")
    assert provenance.lock_digest(lock) != before


def test_the_source_digest_follows_the_files_of_its_paths(tmp_path, monkeypatch):
    for name in ("training/fit.py", "networks/backbones/weights.yaml", "cli/main.py", "errors.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)

    def digest():
        return provenance.source_digest(["training", "networks", "errors.py"])

    seen = [digest()]
    for name in ("training/fit.py", "training/new.py", "networks/backbones/weights.yaml", "errors.py"):
        (tmp_path / name).write_text("b")
        seen.append(digest())
    assert len(set(seen)) == len(seen)
    (tmp_path / "cli/main.py").write_text("b")
    assert digest() == seen[-1]
