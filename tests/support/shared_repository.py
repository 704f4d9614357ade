"""A repository of git with a bare remote, and a second clone whose owner commits and pushes meanwhile."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from darkroom.operations.workspace import Workspace

PIPELINE = """\
stages:
  train:
    cmd: python train.py
    params: [train]
    deps: [data/incoming, src, train.py]
    outs: [models/cnn/model.onnx]
"""
LOCK = "schema: '2.0'\nstages:\n  train:\n    cmd: python train.py {}\n"


class Clone:
    """A clone on the branch main, with its upstream set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Workspace(root, log=root / ".darkroom" / "retrain" / "log.txt")

    def git(self, *arguments: str) -> str:
        """Return what git printed; it must succeed."""
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def write(self, files: Mapping[str, str]) -> None:
        """Write files, relative to the root."""
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def commit(self, **files: str) -> str:
        """Commit files, whose names have / for __ and . for _, and return the commit."""
        self.write({name.replace("__", "/").replace("_", "."): text for name, text in files.items()})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", f"change {', '.join(files)}")
        return self.git("rev-parse", "HEAD")

    def push(self) -> None:
        """Push the branch."""
        self.git("push", "--quiet")

    @property
    def upstream(self) -> str:
        """The commit that the remote has."""
        return self.git("ls-remote", "origin", "refs/heads/main").split()[0]


def create(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Clone, Clone]:
    """Return this repository's clone and the one of somebody else, both at the same commit."""
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    remote = folder / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch", "main", remote], check=True)
    clones = []
    for name in ("here", "there"):
        subprocess.run(["git", "clone", "--quiet", remote, folder / name], check=True, capture_output=True)
        clone = Clone(folder / name)
        clone.git("config", "user.name", name)
        clone.git("config", "user.email", f"{name}@localhost")
        if name == "here":
            clone.write({"dvc.yaml": PIPELINE, "dvc.lock": LOCK.format("old"), "params.yaml": "train: 1\n"})
            clone.write({"src/a.py": "a = 1\n", "train.py": "import a\n", "data/incoming/README.md": "here\n"})
            clone.write({".gitignore": "/.darkroom/\n/models/\n/data/incoming/?*/\n", "notes.txt": "none\n"})
            clone.git("checkout", "--quiet", "-b", "main")
            clone.git("add", "--all")
            clone.git("commit", "--quiet", "--message", "start")
            clone.git("push", "--quiet", "--set-upstream", "origin", "main")
        clones.append(clone)
    return clones[0], clones[1]
