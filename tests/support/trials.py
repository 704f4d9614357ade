"""Trials of a search, made up."""

import dataclasses
from typing import Any

from darkroom.tuning.rows import TrialRow


def trial(number: int, accuracy: float | None = None, **changes: Any) -> TrialRow:
    """A complete trial with this accuracy; without one, a trial that failed."""
    row = TrialRow(
        number=number,
        state="failed" if accuracy is None else "complete",
        params={"learning_rate": 0.1 / (number + 1), "optimizer.name": ("sgd", "muon")[number % 2]},
        metrics={} if accuracy is None else {"val_accuracy": accuracy, "latency_ms": 1.0 + number, "model_bytes": 4e5},
        curve={} if accuracy is None else {1: accuracy - 0.2, 2: accuracy},
        feasible=True,
        retry_of=None,
        reason="loss is not finite" if accuracy is None and "state" not in changes else None,
        worker="host:1",
        started=1000.0 + number,
        seconds=9.0,
        is_baseline=number == 0,
    )
    return dataclasses.replace(row, **changes)


MIXED = [
    trial(0, 0.9),
    trial(1, 0.93, params={"learning_rate": 1e-5, "early_stopping": None, "depth": 3}),
    trial(2, 0.1),
    trial(3),
    trial(4, 0.95, feasible=False),
    trial(5, 0.0, state="pruned", metrics={}, curve={1: 0.6}),
    trial(6, state="killed", curve={1: 0.5}),
    trial(7, state="running", curve={1: 0.7, 2: 0.8}),
    trial(8, state="waiting", params={}),
]
