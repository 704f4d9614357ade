"""The targets of the Makefile that are not tests or checks themselves."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from darkroom.tracking import runs
from tests.support.chromium import chromium
from tests.support.command_line import SOURCE
from tests.support.project import ROOT
from tests.support.trained_repository import clean_environment, fresh_store


@pytest.mark.heavy
def test_the_ui_opens_at_the_runs_and_takes_few_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_store(tmp_path, monkeypatch)
    tags = {"dvc.stage": "train@cnn", "candidate": "cnn"}
    with runs.run(experiment="pets", name="train-cnn width=32", params={"width": 32}, tags=tags) as run:
        run.log_metrics({"val_accuracy": 0.9375}, step=3)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**clean_environment(), "PATH": folders, "PYTHONPATH": str(SOURCE), "BROWSER": "echo opened %s"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = ["make", "--assume-old", ".venv/.ready", "ui", f"PORT={taken.getsockname()[1]}"]
        started = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert started.stdout is not None
        try:
            printed = []
            for line in started.stdout:
                printed.append(line)
                if line.startswith("opened "):
                    break
            address = printed[-1].split()[1]
            assert f"runs: {address}\n" in printed
            assert "is taken; using" in "".join(printed)
            children = psutil.Process(started.pid).children(recursive=True)
            assert len([child for child in children if "python" in child.name() or "mlflow" in child.name()]) <= 2
            with chromium() as browser:
                page = browser.new_page()
                page.goto(address)
                page.get_by_role("link", name="train-cnn width=32").wait_for()
                assert page.get_by_role("button", name="Trained models").is_visible()
                assert page.get_by_text("0.9375").is_visible()
        finally:
            os.killpg(started.pid, signal.SIGTERM)
            started.communicate()


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
