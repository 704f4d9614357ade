"""Run the `darkroom` command as a user does."""

import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.cli import main
from tests.support.trained_repository import clean_environment

SOURCE = Path(main.__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["darkroom", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    captured = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def darkroom(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run the command in the current folder, in a process of its own; bytes out, as a pipe sees them."""
    environment = {**clean_environment(), "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "darkroom.cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)
