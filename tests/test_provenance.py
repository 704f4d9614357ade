import json
import subprocess

import pytest

from darkroom import provenance
from darkroom.errors import DataError


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


def test_the_lock_is_none_before_the_first_run(tmp_path):
    assert provenance.lock_sha256(tmp_path / "dvc.lock") == "none"
    (tmp_path / "dvc.lock").write_text("x")
    assert len(provenance.lock_sha256(tmp_path / "dvc.lock")) == 64


def test_the_data_digest_is_that_of_the_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"digest": "abc"}))
    assert provenance.data_digest(tmp_path) == "abc"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_digest_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="expected a manifest with a digest; run `dvc repro preprocess`"):
        provenance.data_digest(tmp_path)
