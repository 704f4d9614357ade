"""Registered versions without a training: directories of three small files, which is all that moves of aliases need."""

from pathlib import Path
from typing import Any

from darkroom.files.writing import sha256_of
from darkroom.registry.snapshot import Version
from darkroom.registry.versions import find
from darkroom.tracking import store


class Died(BaseException):
    """What stands for the death of a process: nothing of ours catches it."""


class Dying:
    """An MLflow client whose process dies before its n-th write (counted from 0)."""

    def __init__(self, opened: Any, lives: int) -> None:
        self._client = opened
        self.lives = lives

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not name.startswith(("set_", "delete_", "create_", "update_", "log_")):
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            if self.lives == 0:
                raise Died
            self.lives -= 1
            return method(*arguments, **named)

        return call


def bare_versions(root: Path, name: str, n_versions: int) -> list[Version]:
    """Register versions 1 to n of a name and return them."""
    opened = store.client()
    opened.create_registered_model(name)
    made = []
    for number in range(1, n_versions + 1):
        folder = root / "bare" / name / str(number)
        for path in ("MLmodel", "artifacts/model.onnx", "code/package.py"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(f"{path} of {name} {number}")
        sums = {
            f"sha256/{path.relative_to(folder).as_posix()}": sha256_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        opened.create_model_version(name, source=folder.as_uri(), tags=sums)
        made.append(find(name, version=str(number)))
    return made
