import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from rich.console import Console

from darkroom.cli import tune_status
from darkroom.tuning.rows import TrialRow
from tests.support.trials import MIXED, trial

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()


def printed(rows: Sequence[TrialRow], *, width: int = 80, n_rows: int = 20, encoding: str = "utf-8") -> list[str]:
    """The lines of the table as they reach a file."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        shown = tune_status.table(rows, title="tune-cnn", wanted=40, n_rows=n_rows, now=NOON)
        Console(file=file, width=width, force_terminal=False).print(shown)
        file.flush()
        return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


def line_of(number: int, lines: list[str]) -> str:
    (found,) = (line for line in lines if line.split()[:1] == [str(number)] and "of 40" not in line)
    return found


def test_a_line_holds_the_facts_of_its_trial() -> None:
    lines = printed(MIXED, width=140)
    assert lines[0] == "tune-cnn"
    running = ["7", "running", "80.00%", "2", "0:09", "1", "learning_rate=0.0125", "optimizer=muon"]
    assert line_of(7, lines).split() == running
    assert "95.00%" in line_of(4, lines)
    assert "above a limit; learning_rate=0.02" in line_of(4, lines)
    assert "loss is not finite; learning_rate" in line_of(3, lines)
    assert "early_stopping=null" in line_of(1, lines)
    assert [line for line in lines if "*" in line] == [line_of(1, lines), lines[-1]]


def test_the_caption_counts_and_names_the_best() -> None:
    counts, facts = printed(MIXED)[-2:]
    assert counts == "6 of 40 finished: 1 running, 4 complete, 1 pruned, 1 failed, 1 killed, 1 waiting"
    assert facts.startswith("* best: 93.00%, trial 1; 0:09 per trial; expected end ")


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("n_trials", [0, 1, 300])
def test_the_table_fits_into_the_width(width: int, n_trials: int) -> None:
    rows = [trial(number, 0.9, worker=f"node-{number % 3}.of-a-cluster:{number}") for number in range(n_trials)]
    assert max(map(len, printed(rows, width=width))) <= width


def test_earlier_trials_are_counted_the_best_and_running_shown() -> None:
    rows = [trial(number, 0.5) for number in range(60)]
    rows[10], rows[20] = trial(10, 0.9), trial(20, state="running")
    lines = printed(rows, n_rows=8)
    shown = [int(line.split()[0]) for line in lines if line.split()[:1] and line.split()[0].isdigit()][:8]
    assert shown == [10, 20, *range(54, 60)]
    assert any(line.split() == ["...", "52", "earlier", "trials"] for line in lines)
    all_run = [trial(number, state="running") for number in range(64)]
    assert len(printed(all_run, n_rows=8)) < 8 + tune_status.SURROUNDINGS
    assert any("1 earlier trial" in line for line in printed(rows[9:11], n_rows=1))


def test_no_number_is_cut_in_two() -> None:
    params = {"learning_rate": 0.000123, "dropout": 0.25, "momentum": 0.987}
    for width in range(70, 100):
        words = line_of(0, printed([trial(0, 0.9, params=params)], width=width)).split()[7:]
        assert set(words) <= {"learning_rate=0.000123", "dropout=0.25", "momentum=0.987", "..."}


def test_names_keep_what_tells_them_apart() -> None:
    params = {"optimizer.name": "sgd", "head.units": 1, "stem.units": 2, "train_augmentation.shift": 3}
    line = line_of(0, printed([trial(0, 0.9, params=params)], width=140))
    assert line.endswith("optimizer=sgd head.units=1 stem.units=2 shift=3")


def test_the_host_is_shown_where_there_are_several() -> None:
    far = trial(0, 0.9, worker="a-very-long-name-of-a-node:4021")
    assert line_of(0, printed([far])).split()[6] == "4021"
    assert line_of(0, printed([far, trial(1, 0.9)])).split()[6] == "e-of-a-node:4021"


def test_a_terminal_without_unicode_shows_the_table() -> None:
    assert "93.00% *" in " ".join(printed(MIXED, encoding="ascii"))


def test_markup_in_a_reason_is_shown_as_it_is() -> None:
    row = trial(0, reason="[bold]shapes\n[/x] differ", params={})
    assert line_of(0, printed([row])).endswith("[bold]shapes [/x] differ")


def test_a_summary_is_json_and_counts() -> None:
    state = tune_status.summary(MIXED, 40, NOON)
    assert json.loads(json.dumps(state)) == state
    assert state["finished"] == 6
    assert state["states"] == {"running": 1, "complete": 4, "pruned": 1, "failed": 1, "killed": 1, "waiting": 1}
    assert state["best"] == {"trial": 1, "val_accuracy": 0.93, "params": MIXED[1].params}
    assert state["seconds_per_trial"] == 9.0


def test_the_expected_end_depends_on_how_many_run_now() -> None:
    done = [trial(number, 0.9, seconds=60.0) for number in range(10)]
    running = [trial(number, state="running", seconds=30.0) for number in (10, 11)]
    one, two = (tune_status.summary([*done, *running[:count]], 20, NOON)["expected_end"] for count in (1, 2))
    assert one == "2026-01-02T12:09:30+00:00"
    assert two == "2026-01-02T12:04:30+00:00"


def test_no_end_is_expected_where_nothing_runs_or_is_known() -> None:
    for rows in ([], [trial(0, 0.9)], [trial(0)], [trial(0, state="running")]):
        assert tune_status.summary(rows, 20, NOON)["expected_end"] is None


class Terminal(io.StringIO):
    """Keeps what a terminal is sent."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_watching_ends_when_all_trials_have_finished(terminal: Terminal) -> None:
    looks = iter([[], [trial(0, 0.9)], [trial(0, 0.9), trial(1, state="running")], [trial(0, 0.9), trial(1, 0.95)]])
    console = Console(file=terminal, width=80, height=20)
    tune_status.watch(lambda: next(looks), title="tune-cnn", wanted=2, seconds=0.01, console=console)
    assert next(looks, None) is None
    assert "2 of 2 finished: 2 complete" in terminal.getvalue()


def test_ctrl_c_ends_watching_and_leaves_the_table(terminal: Terminal) -> None:
    looks = iter([[trial(0, 0.9)]])

    def read() -> list[TrialRow]:
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    console = Console(file=terminal, width=80, height=20)
    tune_status.watch(read, title="tune-cnn", wanted=2, seconds=0.01, console=console)
    assert "1 of 2 finished" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_without_a_terminal_the_table_is_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    tune_status.watch(lambda: [trial(0, 0.9)], title="tune-cnn", wanted=2, console=Console(file=file, width=80))
    assert file.getvalue().count("1 of 2 finished") == 1


def test_no_color_takes_the_colours_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def codes() -> str:
        file = io.StringIO()
        console = Console(file=file, width=80, force_terminal=True, color_system="standard")
        console.print(tune_status.table(MIXED, title="tune-cnn", wanted=2, now=NOON))
        return file.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;36m" in codes()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "36m" not in codes()
    assert "running" in codes()
