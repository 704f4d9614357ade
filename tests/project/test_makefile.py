"""The targets of the Makefile that are not tests or checks themselves."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support.command_line import SOURCE
from tests.support.project import ROOT
from tests.support.trained_repository import clean_environment, fresh_store


@pytest.mark.heavy
def test_the_ui_runs_in_few_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_store(tmp_path, monkeypatch)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["make", "--assume-old", ".venv/.ready", "ui", f"PORT={port}"]
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**clean_environment(), "PATH": folders, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    ) as started:
        assert started.stdout is not None
        try:
            printed = []
            for line in started.stdout:
                printed.append(line)
                if "Uvicorn running on" in line:
                    break
            assert "Uvicorn running on" in printed[-1], printed
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
                assert answer.status == 200, printed
            children = psutil.Process(started.pid).children(recursive=True)
            assert len([child for child in children if "python" in child.name() or "mlflow" in child.name()]) <= 2
        finally:
            os.killpg(started.pid, signal.SIGTERM)


def test_a_moved_repository_makes_its_environment_again(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    ready = tmp_path / ".venv" / ".ready"

    def planned() -> str:
        return subprocess.run(["make", "-n", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    ready.write_text(f"{tmp_path}\n")
    assert "Nothing to be done" in planned()
    ready.write_text("/elsewhere\n")
    assert "-m venv --clear .venv" in planned()
