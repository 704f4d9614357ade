"""Undo the changes of a retraining: dvc.lock, .dvc files of new images, processes, DVC's locks.

Until it is finished, a run keeps its state (.darkroom/retrain/state.json) and the original small files that it will
write (.darkroom/retrain/before/). Finished stages stay in DVC's cache, from where the next `dvc repro` restores them,
so restoring dvc.lock loses no work.

Only changes of the run are undone. While it is alive it records the content of its files; a file with other content
after its death, or one that is committed, was changed by somebody else and is kept.
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

MARK = "DARKROOM_RETRAIN"  # in the environment of every process of a run, to find its orphans
GRACE_SECONDS = 20  # for a stage to save its state after SIGTERM


class WorkInProgress:
    """The files of an unfinished run; there is at most one, because runs hold the lock of single_flight.

    Attributes:
        folder: .darkroom/retrain of the repository.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".darkroom" / "retrain"
        self._state_file = self.folder / "state.json"

    def state(self) -> dict[str, Any] | None:
        """Return the state of the unfinished run, None if the last one finished."""
        try:
            return dict(json.loads(self._state_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError:  # damaged by hand, but still a sign of an unfinished run
            return {"token": "", "started": "an unknown time", "who": "somebody", "restored": True}

    def begin(self, facts: Mapping[str, Any], *, writes: Sequence[str]) -> dict[str, Any]:
        """Back up the files, record the facts, and return them with the run's token.

        Args:
            writes: the small files that the run will write, relative to the root; they need not exist.
        """
        shutil.rmtree(self._before, ignore_errors=True)
        for name in writes:
            if (self.root / name).is_file():
                with replacing(self._before / name) as part:
                    shutil.copyfile(self.root / name, part)
        # Last, so that nothing has begun if the process is killed before.
        state = {**facts, "token": token_hex(8), "writes": list(writes), "restored": False}
        return self.note({**state, "left": self.contents(state)})

    def note(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Record the state and return it."""
        write_text(self._state_file, json.dumps(dict(state), indent=2) + "\n")
        return dict(state)

    def contents(self, state: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the present sha256 of each file that the run writes; None if it does not exist."""
        return {name: _sha256(_content(self.root / name)) for name in state["writes"]}

    def restore(self, state: Mapping[str, Any], *, committed: Collection[str]) -> list[str]:
        """Restore the files that the run, and nobody since, has changed; return their names.

        Args:
            state: with the contents that the run recorded last (`left`).
            committed: files that equal those of the checked-out commit, which are kept.
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
        """Delete the state of the finished run."""
        self._state_file.unlink(missing_ok=True)
        shutil.rmtree(self._before, ignore_errors=True)

    @property
    def _before(self) -> Path:
        return self.folder / "before"


def lock_is_valid(path: Path) -> bool:
    """Return whether dvc.lock is complete or absent: DVC writes it in place, so a kill can truncate it."""
    try:
        return not path.exists() or isinstance(YAML(typ="safe", pure=True).load(path), dict)
    except (YAMLError, UnicodeDecodeError):
        return False


def processes_of(token: str) -> list[psutil.Process]:
    """Return the live processes of this user that a run with this token started, directly or indirectly."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == token:
                found.append(process)
        except psutil.Error:  # of another user, or just ended
            continue
    return found


def end(processes: Sequence[psutil.Process], *, grace: float = GRACE_SECONDS) -> None:
    """End processes: SIGTERM, on which a stage saves its state, and SIGKILL for those alive after `grace` seconds."""
    for process in processes:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=grace)


def free_dvc_locks(root: Path, pids: Sequence[int]) -> None:
    """Remove the entries of killed DVC processes in .dvc/tmp/rwlock.

    DVC itself frees entries of dead processes. But it writes the file in place, so a kill can leave it unreadable, and
    every later command fails; and in containers the process id is soon reused.
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
    """Return whether a kill truncated dvc.lock; merge conflicts also make it invalid."""
    return not lock_is_valid(path) and not has_conflicts(path)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _quietly(call: Any) -> None:
    try:
        call()
    except psutil.Error:  # it has ended already
        return
