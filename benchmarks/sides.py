"""Two sides of a benchmark that take turns, each in a separate process."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Side:
    """A process `python -m MODULE --side ARGUMENTS` that answers every line with the seconds of one more pass."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, "--side", *arguments]
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def seconds(self) -> float:
        """Return the seconds of one pass; exit with an error if the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        if line := self.process.stdout.readline():
            return float(line)
        sys.exit(f"{' '.join(self._command[2:])}: ended with {self.process.wait()}")

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def be_side(one_pass: Callable[[], float]) -> None:
    """For every line of stdin, run a pass and print its result, the seconds."""
    for _ in sys.stdin:
        print(one_pass(), flush=True)
