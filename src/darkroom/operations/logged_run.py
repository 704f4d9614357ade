"""Run a program whose output goes to a file and optionally to stderr."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.2
MISSING = re.compile(
    r"\S+ is supported, but requires 'dvc-(\w+)' to be installed"
)  # DVC's message; our extras have the same names


class Ended(NamedTuple):
    """A program that has ended: its exit status, and what it printed."""

    status: int
    printed: str

    @property
    def last_error(self) -> str:
        """The last line with an error of Darkroom, else of DVC or git, else the last line."""
        lines = [line.strip() for line in self.printed.splitlines() if line.strip()]
        for beginning in ("error:", ("ERROR:", "fatal:")):
            if found := [line for line in lines if line.startswith(beginning)]:
                error = found[-1].partition(":")[2].strip()
                missing = MISSING.search(error)
                return f"{missing[0]}: .venv/bin/uv pip install -e '.[{missing[1]}]'" if missing else error
        return lines[-1] if lines else "no output"


def run_logged(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str],
    on_start: Callable[[int], None] | None = None,
    on_look: Callable[[], None] | None = None,
    echo: bool = True,
) -> Ended:
    """Run a program to its end.

    Its output is a file, not a pipe to this process: if the reader of a pipe is killed, the writer dies or stops, and a
    stage must not end half done with status 0.

    Args:
        log: its output is appended to this file.
        environment: the complete environment.
        on_start: called with the process id.
        on_look: called every POLL_SECONDS while it runs, and once afterwards.
        echo: whether to show its output on stderr too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as target, log.open("rb") as source:
        begin = source.seek(0, 2)
        child = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=target, stderr=subprocess.STDOUT
        )
        if on_start:
            on_start(child.pid)
        status = None
        while status is None:
            with suppress(subprocess.TimeoutExpired):
                status = child.wait(POLL_SECONDS)
            if echo:
                _show(source.read())
            if on_look:
                on_look()
        source.seek(begin)
        return Ended(status, source.read().decode(errors="replace"))


def _show(content: bytes) -> None:
    if content:
        sys.stderr.write(content.decode(errors="replace"))
        sys.stderr.flush()
