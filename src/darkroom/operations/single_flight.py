"""Allow one retraining or clean-up of a repository at a time, by a lock that names its holder."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darkroom.errors import LockedError
from darkroom.files.writing import write_text
from darkroom.project.locks import store_lock, whoami
from darkroom.project.repository import repository_root


@contextmanager
def single_flight(what: str) -> Iterator[dict[str, Any]]:
    """Hold .darkroom/retrain.lock, which the kernel frees when its holder dies; yield {what, who, pid, started}.

    Args:
        what: the command, for the message of others.

    Raises:
        LockedError: another process holds it; the message says which, and since when.
    """
    owner_file = repository_root() / ".darkroom" / "retrain.owner.json"
    started = datetime.now(UTC).isoformat(timespec="seconds")
    owner = {"what": what, "who": whoami(), "pid": os.getpid(), "started": started}  # who: user@host
    with ExitStack() as stack:
        try:
            stack.enter_context(store_lock("retrain", timeout=0))
        except LockedError:
            raise LockedError(_held(owner_file)) from None
        write_text(owner_file, json.dumps(owner) + "\n")
        yield owner


def _held(owner_file: Path) -> str:
    try:
        owner = json.loads(owner_file.read_text(encoding="utf-8"))
        minutes = (datetime.now(UTC) - datetime.fromisoformat(owner["started"])).total_seconds() / 60
        return (
            f"`{owner['what']}` of {owner['who']} (process {owner['pid']}) has been running since {owner['started']} "
            f"({minutes:.0f} minutes); try again later"
        )
    except (OSError, ValueError, KeyError, TypeError):  # the holder has not written its name yet
        return f"another process has just taken the lock next to {owner_file}; try again later"
