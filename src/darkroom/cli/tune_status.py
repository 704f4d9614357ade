"""The output of `darkroom tune-status`: a table of trials and a summary, updated while the search runs."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from darkroom.project.text import in_short
from darkroom.tuning.rows import STATES, TrialRow, best_trial, last_accuracy, n_finished, val_accuracy

STYLES = {"running": "bold cyan", "pruned": "dim", "waiting": "dim", "failed": "red", "killed": "red"}
BEST = "bold green"
WORKER = 16  # characters of host:pid that are shown, the last ones
SURROUNDINGS = 10  # lines of a terminal around the trials: title, header, rules, "earlier trials", caption, prompt


def summary(rows: Sequence[TrialRow], wanted: int, now: float) -> dict[str, Any]:
    """Return the state of a search as a dict for JSON.

    Args:
        rows: all trials so far.
        wanted: planned number of trials.
        now: Unix time in seconds.

    Returns:
        wanted, finished (without killed trials that were repeated), states (state -> number of trials), best ({trial,
        val_accuracy, params} of the best feasible trial, or None), seconds_per_trial (mean over trials that were not
        killed, or None), expected_end (ISO 8601, UTC; None if nothing runs or has run).
    """
    best = best_trial(rows)
    counts = Counter(row.state for row in rows)
    ended = [row.seconds for row in rows if row.state in ("complete", "pruned") and row.seconds is not None]
    mean = statistics.fmean(ended) if ended else None
    left = _seconds_left(rows, wanted, mean)
    end = None if left is None else datetime.fromtimestamp(now + left, UTC).isoformat(timespec="seconds")
    return {
        "wanted": wanted,
        "finished": n_finished(rows),
        "states": {state: counts[state] for state in STATES if counts[state]},
        "best": None
        if best is None
        else {"trial": best.number, "val_accuracy": val_accuracy(best), "params": best.params},
        "seconds_per_trial": None if mean is None else round(mean, 1),
        "expected_end": end,
    }


def _seconds_left(rows: Sequence[TrialRow], wanted: int, mean: float | None) -> float | None:
    """Return the seconds that the workers now running a trial need for the rest.

    The time since the first trial is not used, because a search may have been interrupted.
    """
    running = [row for row in rows if row.state == "running"]
    if not running or mean is None:
        return None
    begun = sum(max(mean - (row.seconds or 0.0), 0.0) for row in running)
    not_begun = max(wanted - n_finished(rows) - len(running), 0)
    return (begun + not_begun * mean) / len(running)


def table(
    rows: Sequence[TrialRow],
    *,
    title: str,
    wanted: int,
    n_rows: int = 20,
    now: float | None = None,
) -> Table:
    """Return the trials as a table of at most 80 columns, the newest at the bottom, with a caption that sums them up.

    No information is in colour alone: running trials have a word, the best one a star.

    Args:
        rows: all trials so far.
        wanted: planned number of trials.
        n_rows: maximum number of rows: the best trial, the running ones, then the newest.
        now: Unix time in seconds; None: that of the clock.
    """
    best = best_trial(rows)
    by_rank = sorted(rows, key=lambda row: (row is not best, row.state != "running", -row.number))
    shown = sorted(by_rank[:n_rows], key=lambda row: row.number)
    hosts = {_host(row) for row in shown if row.worker}
    drawn = Table(
        title=Text(title),
        title_justify="left",
        caption=Text(_caption(rows, wanted, time.time() if now is None else now)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        expand=True,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("trial", "state", "val\naccuracy", "epoch", "time", "worker"):
        justify: Literal["left", "right"] = "left" if name in ("state", "worker") else "right"
        drawn.add_column(name, justify=justify, no_wrap=True, overflow="crop")
    drawn.add_column("parameters", ratio=1)
    hidden = len(rows) - len(shown)
    if hidden:
        words = f"{hidden} earlier trial{'s' if hidden > 1 else ''}"
        drawn.add_row("...", *[""] * (len(drawn.columns) - 2), words, style="dim")
    for row in shown:
        drawn.add_row(*_cells(row, is_best=row is best, one_host=len(hosts) <= 1), style=_style(row, row is best))
    return drawn


def watch(
    read: Callable[[], Sequence[TrialRow]],
    *,
    title: str,
    wanted: int,
    seconds: float = 1.0,
    console: Console | None = None,
) -> None:
    """Show the table and refresh it until all wanted trials have finished, or until Ctrl-C, which is not an error.

    If the output is not a terminal, the table is printed once.

    Args:
        read: returns all trials so far.
        seconds: between two updates.
        console: where to show it; None: stdout.
    """
    console = console or Console()
    live_here = console.file.isatty()  # console.is_terminal is also true with FORCE_COLOR, which many CI systems set

    def look() -> tuple[Table, bool]:
        rows = read()
        done = n_finished(rows) >= wanted and not any(row.state == "running" for row in rows)
        room = max(console.height - SURROUNDINGS, 3) if live_here else 20
        return table(rows, title=title, wanted=wanted, n_rows=room), done

    drawn, done = look()
    if done or not live_here:
        console.print(drawn)
        return
    try:
        with Live(drawn, console=console, auto_refresh=False) as live:
            while not done:
                time.sleep(seconds)
                drawn, done = look()
                live.update(drawn, refresh=True)
    except KeyboardInterrupt:
        return


class _Words:
    """Text cut between words, because a cut number would be misread.

    Three dots mark the cut; not every terminal has the character of an ellipsis.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        line = ""
        for position, word in enumerate(self._words):
            longer = f"{line} {word}".lstrip()
            room = options.max_width - (4 if position < len(self._words) - 1 else 0)
            if cell_len(longer) > room:
                line = f"{line} ...".lstrip()
                break
            line = longer
        yield Text(line, no_wrap=True, overflow="crop")


def _cells(row: TrialRow, *, is_best: bool, one_host: bool) -> list[Text | _Words]:
    accuracy = last_accuracy(row)
    mark = " *" if is_best else "  "
    worker = row.worker or ""
    if one_host:
        worker = worker.rpartition(":")[2]
    cells = [
        str(row.number),
        row.state,
        "" if accuracy is None else f"{accuracy:.2%}{mark}",
        str(len(row.curve) or ""),
        "" if row.seconds is None else _duration(row.seconds),
        worker[-WORKER:],
    ]
    words = "; ".join([*_remarks(row), *filter(None, [in_short(row.params)])]).split()
    return [*map(Text, cells), _Words(words)]


def _remarks(row: TrialRow) -> list[str]:
    remarks = [" ".join(row.reason.split())] if row.reason else []
    if row.state == "complete" and not row.feasible:
        remarks.append("above a limit")
    if row.retry_of is not None:
        remarks.append(f"repeats {row.retry_of}")
    return remarks


def _caption(rows: Sequence[TrialRow], wanted: int, now: float) -> str:
    """Return two lines: how many trials are in which state; the best one and when the rest will be done."""
    state = summary(rows, wanted, now)
    counts = ", ".join(f"{count} {name}" for name, count in state["states"].items())
    lines = f"{state['finished']} of {wanted} finished" + (f": {counts}" if counts else "")
    facts = []
    if state["best"]:
        facts.append(f"* best: {state['best']['val_accuracy']:.2%}, trial {state['best']['trial']}")
    if state["seconds_per_trial"] is not None:
        facts.append(f"{_duration(state['seconds_per_trial'])} per trial")
    if state["expected_end"]:
        end = datetime.fromisoformat(state["expected_end"]).astimezone()
        today = end.date() == datetime.fromtimestamp(now).astimezone().date()
        facts.append(f"expected end {end:%H:%M}" if today else f"expected end {end:%Y-%m-%d %H:%M}")
    return "\n".join([lines, "; ".join(facts)]).rstrip()


def _style(row: TrialRow, is_best: bool) -> str:
    return BEST if is_best else STYLES.get(row.state, "")


def _host(row: TrialRow) -> str:
    return (row.worker or "").rpartition(":")[0]


def _duration(seconds: float) -> str:
    """Return minutes:seconds, from an hour on hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
