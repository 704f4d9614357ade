"""Undo the changes of a retraining: dvc.lock, .dvc files of new images, processes, DVC's locks.

A run writes down what it began (.darkroom/retrain/state.json) and keeps the small files as they were
(.darkroom/retrain/before/) until it is through. Whatever its stages finished stays in DVC's cache, from where the next
`dvc repro` takes it: putting dvc.lock back loses no work.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from darkroom.files.writing import replacing, write_text
from darkroom.operations.workspace import INCOMING

MARK = "DARKROOM_RETRAIN"  # in the environment of every process of a run: how its orphans are found
GRACE_SECONDS = 20  # for a stage to save its state after SIGTERM


class WorkInProgress:
    """The files of one unfinished run; there is at most one, since runs hold the lock of single_flight.

    Attributes:
        folder: .darkroom/retrain of the repository.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".darkroom" / "retrain"
        self._state_file = self.folder / "state.json"

    def state(self) -> dict[str, Any] | None:
        """Return what the unfinished run wrote down, None where the last one finished."""
        try:
            return dict(json.loads(self._state_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError:  # written by hand: what it says is lost, that there is something unfinished is not
            return {"token": "", "started": "an unknown time", "who": "somebody", "restored": True}

    def begin(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the files as they are now, write down the facts, and return them with the run's token."""
        shutil.rmtree(self._before, ignore_errors=True)
        kept = []
        for name in _small_files(self.root):
            with replacing(self._before / name) as part:
                shutil.copyfile(self.root / name, part)
            kept.append(name)
        # Last: a kill before this line finds nothing begun.
        return self.note({**facts, "token": token_hex(8), "kept": kept, "restored": False})

    def note(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Write down the state and return it."""
        write_text(self._state_file, json.dumps(dict(state), indent=2) + "\n")
        return dict(state)

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Put back dvc.lock and the .dvc files as they were when the run began; return the names that had changed."""
        if state["restored"]:
            return []
        changed = [name for name in _small_files(self.root) if name not in state["kept"]]
        for name in changed:
            (self.root / name).unlink()
        for name in state["kept"]:
            before, now = self._before / name, self.root / name
            if not now.is_file() or now.read_bytes() != before.read_bytes():
                with replacing(now) as part:
                    shutil.copyfile(before, part)
                changed.append(name)
        self.note({**state, "restored": True})
        return changed

    def finish(self) -> None:
        """Forget the run: it is through."""
        self._state_file.unlink(missing_ok=True)
        shutil.rmtree(self._before, ignore_errors=True)

    @property
    def _before(self) -> Path:
        return self.folder / "before"


def lock_is_valid(path: Path) -> bool:
    """Return whether dvc.lock is whole or absent: DVC writes it in place, so a kill can cut it short."""
    try:
        return not path.exists() or isinstance(YAML(typ="safe", pure=True).load(path), dict)
    except (YAMLError, UnicodeDecodeError):
        return False


def processes_of(token: str) -> list[psutil.Process]:
    """Return the living processes of this machine and user that a run with this token started, directly or not."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == token:
                found.append(process)
        except psutil.Error:  # another user's, or it has just ended
            continue
    return found


def end(processes: Sequence[psutil.Process], *, grace: float = GRACE_SECONDS) -> None:
    """End processes: SIGTERM, on which a stage saves its state, and SIGKILL for those that live after `grace` s."""
    for process in processes:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=grace)


def free_dvc_locks(root: Path, pids: Sequence[int]) -> None:
    """Remove what killed DVC processes left in .dvc/tmp/rwlock.

    DVC frees an entry whose process is gone. But it writes the file in place, so a kill can leave it unreadable, which
    every later command refuses; and in containers the number of the dead process soon belongs to another one.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        reading = {name: [one for one in infos if one["pid"] not in pids] for name, infos in held["read"].items()}
        writing = {name: one for name, one in held["write"].items() if one.get("pid") not in pids}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        path.unlink()
        return
    kept = {"read": {name: infos for name, infos in reading.items() if infos}, "write": writing}
    write_text(path, json.dumps(kept))


def _small_files(root: Path) -> list[str]:
    files = [Path("dvc.lock"), *(path.relative_to(root) for path in sorted((root / INCOMING).glob("*.dvc")))]
    return [file.as_posix() for file in files if (root / file).is_file()]


def _quietly(call: Any) -> None:
    try:
        call()
    except psutil.Error:  # it has ended by itself
        return
