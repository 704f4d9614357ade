"""The trials of a search as plain rows, simple statistics of them, and trials.csv; loads nothing heavy."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from darkroom.files import writing
from darkroom.project.text import written

STATES = ("running", "complete", "pruned", "failed", "killed", "waiting")
FINISHED = frozenset({"complete", "pruned", "failed"})
ENDED = FINISHED | {"killed"}
COSTS = ("latency_ms", "model_bytes")  # metrics to minimise; measured only if params.yaml uses them


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        state: one of STATES.
        params: drawn values by name in the search space, numbers or labels of choices (str, bool, None or number);
            conditional ones are absent if their condition is not met.
        metrics: of complete trials: val_accuracy in [0, 1], and measured COSTS.
        curve: validation accuracy by epoch, counted from 1, also of running and pruned trials.
        feasible: whether the costs are within their limits.
        retry_of: number of the killed trial that this one repeats.
        reason: why it failed, was pruned or was killed.
        worker: host:pid.
        started: Unix time in seconds.
        seconds: until it ended; for running trials until now.
        is_baseline: whether it has the values of params.yaml: trial 0, or its repetition.
        right: mask of correct validation images of a complete trial; see answers.packed.
    """

    number: int
    state: str
    params: dict[str, Any]
    metrics: dict[str, float]
    curve: dict[int, float]
    feasible: bool
    retry_of: int | None
    reason: str | None
    worker: str | None
    started: float | None
    seconds: float | None
    is_baseline: bool = False
    right: str = ""


def val_accuracy(row: TrialRow) -> float | None:
    """Return the validation accuracy of a complete trial, None for others."""
    value = row.metrics.get("val_accuracy") if row.state == "complete" else None
    return value if value is not None and math.isfinite(value) else None


def last_accuracy(row: TrialRow) -> float | None:
    """Return the validation accuracy of a complete trial, or the last one that another trial reported."""
    value = val_accuracy(row)
    if value is None and row.curve:
        value = row.curve[max(row.curve)]
    return value if value is not None and math.isfinite(value) else None


def best_trial(rows: Iterable[TrialRow]) -> TrialRow | None:
    """Return the complete, feasible trial with the highest validation accuracy; of equal ones the earliest."""
    scored = [(value, row) for row in rows if row.feasible and (value := val_accuracy(row)) is not None]
    return max(scored, key=lambda pair: (pair[0], -pair[1].number))[1] if scored else None


def best_so_far(rows: Iterable[TrialRow]) -> dict[int, float]:
    """Return the highest validation accuracy of complete, feasible trials so far, by trial number.

    Trials before the first such one are absent.
    """
    best: dict[int, float] = {}
    highest = -math.inf
    for row in sorted(rows, key=lambda row: row.number):
        value = val_accuracy(row) if row.feasible else None
        highest = max(highest, value) if value is not None else highest
        if highest > -math.inf:
            best[row.number] = highest
    return best


def pareto_front(rows: Iterable[TrialRow], cost: str) -> list[TrialRow]:
    """Return the complete, feasible trials that no other beats in both accuracy and cost, the cheapest first.

    Args:
        cost: one of COSTS.
    """
    scored = [row for row in rows if row.feasible and val_accuracy(row) is not None and cost in row.metrics]
    scored.sort(key=lambda row: (row.metrics[cost], -row.metrics["val_accuracy"], row.number))
    front: list[TrialRow] = []
    for row in scored:
        if not front or row.metrics["val_accuracy"] > front[-1].metrics["val_accuracy"]:
            front.append(row)
    return front


def n_finished(rows: Sequence[TrialRow]) -> int:
    """Return the number of trials that were not killed; killed ones are replaced."""
    return sum(row.state in FINISHED for row in rows)


def param_names(rows: Iterable[TrialRow]) -> list[str]:
    """Return the names of all parameters in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.params))


def write_csv(rows: Sequence[TrialRow], path: Path) -> Path:
    """Write trials.csv atomically, one line per trial by number, and return path.

    The columns are those of `columns`; missing values are empty.
    """
    best, names = best_so_far(rows), columns(rows)
    lines = list[list[Any]]()
    for row in sorted(rows, key=lambda row: row.number):
        line = {
            **row.metrics,
            "trial": row.number,
            "state": row.state,
            "val_accuracy": val_accuracy(row),
            "best_val_accuracy": best.get(row.number),
            "trained_epochs": len(row.curve),
            "seconds": None if row.seconds is None else round(row.seconds, 3),
            "retry_of": row.retry_of,
            "reason": row.reason,
            **{name: _cell(value) for name, value in row.params.items()},
        }
        lines.append([line.get(name) for name in names])
    writing.write_csv(path, names, lines)
    return path


def _cell(value: Any) -> Any:
    """Return a value that the csv module writes as in params.yaml; an empty cell means not drawn."""
    return written(value) if value is None or isinstance(value, bool) else value


def columns(rows: Iterable[TrialRow]) -> list[str]:
    """Return the columns of trials.csv: the fixed ones, costs only if measured, then the parameters.

    `trained_epochs`, not `epochs`, because that may be a parameter.
    """
    rows = list(rows)
    measured = [cost for cost in COSTS if any(cost in row.metrics for row in rows)]
    scores = ["trial", "state", "val_accuracy", "best_val_accuracy", *measured]
    return [*scores, "trained_epochs", "seconds", "retry_of", "reason", *param_names(rows)]
