import socket
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.operations.doctor import Finding, examine
from tests.support.trained_repository import fresh_store


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which nothing is wrong."""
    fresh_store(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.delenv("DARKROOM_MIRROR", raising=False)
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "test@localhost")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    return tmp_path


def found(root: Path, about: str) -> Finding:
    return next(one for one in examine(root, model="digits") if one.about == about)


@pytest.mark.heavy
def test_a_sound_repository_has_nothing_wrong(root: Path) -> None:
    (root / "mlflow.db").unlink()
    before = sorted(root.rglob("*"))
    assert [one for one in examine(root, model="digits") if one.status != "ok" and one.about != "disk"] == []
    assert [path for path in sorted(root.rglob("*")) if path not in before and ".dvc" not in path.parts] == []


def test_a_moved_repository_is_told_by_its_environment(root: Path) -> None:
    (root / ".venv").mkdir()
    (root / ".venv" / ".ready").write_text("/elsewhere\n")
    expected = Finding("environment", "wrong", "the repository was moved from /elsewhere; run `make setup`")
    assert found(root, "environment") == expected


def test_another_python_for_the_stages_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said = found(root, "environment")
    assert said.status == "wrong"
    assert said.sentence.endswith(f"not {sys.executable}; activate the environment: . {sys.prefix}/bin/activate")


def test_what_git_lacks_stops_only_what_commits(root: Path) -> None:
    (root / ".git" / "index.lock").touch()
    said = found(root, "git")
    assert said.status == "note"
    assert "index.lock exists" in said.sentence
    assert said.sentence.endswith("(`dvc repro` works; `retrain --commit` and `dvc exp` do not)")


def test_a_directory_without_dvc_is_told_what_to_run(root: Path) -> None:
    (root / ".dvc" / "config").unlink()
    (root / ".dvc").rmdir()
    assert found(root, "dvc") == Finding("dvc", "wrong", f"{root} has no .dvc directory; run `dvc init`")


def test_a_mirror_that_is_no_directory_is_wrong(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_MIRROR", str(root / "gone"))
    said = Finding("mirror", "wrong", f"DARKROOM_MIRROR is {root / 'gone'}, not a directory; correct or unset it")
    assert found(root, "mirror") == said


@pytest.mark.parametrize(
    ("script", "status", "sentence"),
    [
        (
            "echo 'H200, 570.1, 143771 MiB'",
            "note",
            "H200, 570.1, 143771 MiB; TensorFlow cannot use it yet: ",
        ),
        ("echo 'no devices were found'; exit 6", "note", "nvidia-smi failed (no devices were found); until it works"),
    ],
)
def test_a_gpu_that_cannot_be_used_yet_is_noted(
    root: Path, monkeypatch: pytest.MonkeyPatch, script: str, status: str, sentence: str
) -> None:
    (root / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (root / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}:{Path(sys.executable).parent}:/usr/bin:/bin")
    said = found(root, "gpu")
    assert (said.status, said.sentence[: len(sentence)]) == (status, sentence)


@pytest.mark.heavy
def test_a_store_that_does_not_answer_is_wrong(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:runs")
    said = found(root, "store")
    assert said.status == "wrong"
    assert said.sentence.startswith("MLFLOW_TRACKING_URI=file:runs: MLflow no longer keeps runs in plain directories")


@pytest.mark.heavy
def test_a_server_that_is_down_is_wrong(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unheard:  # bound, and nobody listens
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert found(root, "registry").status == "wrong"


@pytest.mark.heavy
def test_the_registry_names_its_champion_or_what_is_missing(root: Path) -> None:
    assert found(root, "registry").sentence.startswith("no model is registered as 'digits'")
