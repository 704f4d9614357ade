"""Record when each stage last ran, for how long, and its last log line, to show to people who run `dvc repro`."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = ".darkroom/stages"  # of the repository


@dataclass(frozen=True)
class StageRun:
    """The last completed run of a stage.

    Attributes:
        started: in seconds since 1970.
        seconds: how long it took.
        said: the last line that it wrote to stderr, or nothing.
    """

    started: float
    seconds: float
    said: str


def current_stage() -> str | None:
    """Return the stage that DVC runs in this process, None outside of `dvc repro` and in experiments."""
    return None if os.environ.get("DVC_EXP_NAME") else os.environ.get("DVC_STAGE")


def last_run(stage: str, *, root: Path) -> StageRun | None:
    """Return the last completed run of a stage, None if there is none that can be read."""
    try:
        return StageRun(**json.loads(_file(stage, root).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def timed(stage: str, main: Callable[[], None], *, root: Path, said: Callable[[], str]) -> None:
    """Run a stage's main and note how long it took.

    Args:
        said: returns its last log line.
    """
    started, clock = time.time(), time.perf_counter()
    main()
    file = _file(stage, root)
    ended = StageRun(started, time.perf_counter() - clock, said())
    with suppress(OSError):  # the record must not fail a stage that is done
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(ended)), encoding="utf-8")


def _file(stage: str, root: Path) -> Path:
    return root / FOLDER / f"{stage}.json"
