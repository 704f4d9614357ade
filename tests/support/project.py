"""A clone of this repository as a user has it, for the tests that run the real pipeline."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = ("MLFLOW_", "DVC_", "DARKROOM_", "KERAS_BACKEND", "PYTHONPATH")


class Project:
    """A clone of this repository with an environment of its own: what a user has after `git clone` and `make setup`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(LEFT_OUT)}
        self.environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own, so that a test can kill it with its children."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, environment: Mapping[str, str] | None = None, status: int = 0) -> str:
        """Return what a command printed, stdout and stderr together; fail unless it ends with `status`."""
        process = self.start(*command, environment=environment)
        printed, _ = process.communicate()
        assert process.returncode == status, f"{command} ended with {process.returncode}:\n{printed}"
        return printed

    def read(self, path: str) -> str:
        return (self.root / path).read_text()


def clone(root: Path) -> Project:
    """Copy what git would commit of the working tree into a new repository at `root`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    project = Project(root)
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "start")
    return project
