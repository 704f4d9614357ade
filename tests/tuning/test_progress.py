"""What a search prints while it runs."""

import contextlib
import os
import pty
import subprocess
import sys
import termios

import pytest

from darkroom.tuning.progress import SearchProgress
from tests.support.project import ROOT
from tests.support.trials import trial

SEARCH = """
from tests.support.trials import trial
from darkroom.tuning.progress import SearchProgress

with SearchProgress(4) as progress:
    progress.on_change([trial(0, 0.9), trial(1, state="pruned"), trial(2, state="running")])
"""


def test_each_ended_trial_gets_one_line_with_its_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [trial(0, 0.9), trial(1, state="running", curve={})]
    with SearchProgress(4) as progress:
        progress.on_change(rows[:1])  # of a search before: no line
        progress.on_change(rows)
        rows[1] = trial(1, 0.95)
        progress.on_change([*rows, trial(2)])
        progress.on_change([*rows, trial(2)])
    assert capsys.readouterr().err.splitlines() == [
        "trial 1: complete, val accuracy 0.9500, the best so far, 9 s (learning_rate=0.05 optimizer=muon)",
        "trial 2: failed, 9 s: loss is not finite (learning_rate=0.0333 optimizer=sgd)",
    ]


def test_in_a_terminal_a_bar_shows_the_best_and_how_many_run() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    search = subprocess.Popen([sys.executable, "-c", SEARCH], stderr=theirs, cwd=ROOT)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is said
        while said := os.read(ours, 100_000):
            shown += said
    assert search.wait() == 0
    os.close(ours)
    assert "2/4" in shown.decode()
    assert "best 0.9000 (trial 0), 1 running, 1 pruned" in shown.decode()
