"""Undo the changes of a retraining: dvc.lock, .dvc files of new images, processes, DVC's locks.

A run writes down what it began (.darkroom/retrain/state.json) and keeps the small files that it is going to write as
they were (.darkroom/retrain/before/) until it is through. Whatever its stages finished stays in DVC's cache, from where
the next `dvc repro` takes it: putting dvc.lock back loses no work.

Only what the run did is undone. As long as it lives it notes what its files contain; a file that has another content
after its death, or that is committed as it is, is the work of somebody else and stays.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from darkroom.files.writing import replacing, write_text
from darkroom.operations.workspace import LOCK
from darkroom.project.merge_conflicts import has_conflicts

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

    def begin(self, facts: Mapping[str, Any], *, writes: Sequence[str]) -> dict[str, Any]:
        """Keep the files as they are now, write down the facts, and return them with the run's token.

        Args:
            writes: the small files that the run is going to write, relative to the root, whether they exist or not.
        """
        shutil.rmtree(self._before, ignore_errors=True)
        for name in writes:
            if (self.root / name).is_file():
                with replacing(self._before / name) as part:
                    shutil.copyfile(self.root / name, part)
        # Last: a kill before this line finds nothing begun.
        state = {**facts, "token": token_hex(8), "writes": list(writes), "restored": False}
        return self.note({**state, "left": self.contents(state)})

    def note(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Write down the state and return it."""
        write_text(self._state_file, json.dumps(dict(state), indent=2) + "\n")
        return dict(state)

    def contents(self, state: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the sha256 of each file that the run writes, as it is now; None where there is none."""
        return {name: _sha256(_content(self.root / name)) for name in state["writes"]}

    def restore(self, state: Mapping[str, Any], *, committed: Collection[str]) -> list[str]:
        """Put back the files that the run changed and nobody since; return their names.

        Args:
            state: with the contents that the run noted last (`left`).
            committed: files that are as the checked-out commit has them: they stay.
        """
        if state["restored"]:
            return []
        changed = []
        for name in state["writes"]:
            now, before = self.root / name, self._before / name
            content = _content(now)
            if content == _content(before) or name in committed:
                continue
            if _sha256(content) != state["left"].get(name) and not (name == LOCK and _is_cut_short(now)):
                continue
            if before.is_file():
                with replacing(now) as part:
                    shutil.copyfile(before, part)
            else:
                now.unlink()
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


def _is_cut_short(path: Path) -> bool:
    """Return whether a kill cut dvc.lock short; a merge leaves it invalid, too."""
    return not lock_is_valid(path) and not has_conflicts(path)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _quietly(call: Any) -> None:
    try:
        call()
    except psutil.Error:  # it has ended by itself
        return
