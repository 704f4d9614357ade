"""Show the progress of a search on stderr."""

import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm

from darkroom.project.console import say
from darkroom.project.text import in_short
from darkroom.tuning.rows import ENDED, TrialRow, best_trial, last_accuracy, n_finished


class SearchProgress:
    """Trials on stderr: one bar in a terminal, with the best value and the expected end, and a line per ended trial.

    Args:
        n_trials: planned number of trials.
    """

    def __init__(self, n_trials: int) -> None:
        self._n_trials = n_trials
        self._told: set[int] | None = None
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Self:
        self._bar = tqdm(total=self._n_trials, disable=not sys.stderr.isatty(), unit="trial", leave=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_change(self, rows: Sequence[TrialRow]) -> None:
        """Show the present trials; those that had ended before the first call get no line."""
        assert self._bar is not None  # noqa: S101 - a promise of the caller
        ended = [row for row in rows if row.state in ENDED]
        if self._told is None:
            self._told = {row.number for row in ended}
            self._bar.initial = n_finished(rows)
        best = best_trial(rows)
        for row in ended:
            if row.number not in self._told:
                self._told.add(row.number)
                with tqdm.external_write_mode(file=sys.stderr):
                    say(_trial_line(row, is_best=row is best))
        counts = Counter(row.state for row in rows)
        shown = f"{counts['running']} running, {counts['pruned']} pruned"
        if best is not None:
            shown = f"best {best.metrics['val_accuracy']:.4f} (trial {best.number}), {shown}"
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.n = n_finished(rows)
        self._bar.refresh()


def _trial_line(row: TrialRow, *, is_best: bool) -> str:
    how = f"trial {row.number}: {row.state}"
    if (accuracy := last_accuracy(row)) is not None:
        how += f", val accuracy {accuracy:.4f}" + (", the best so far" if is_best else "")
    if row.seconds is not None:
        how += f", {row.seconds:.0f} s"
    if row.reason:
        how += f": {row.reason}"
    return f"{how} ({in_short(row.params)})"
