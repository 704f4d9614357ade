"""Searches of a small space, and reports of their trials."""

from pathlib import Path
from typing import Any

from darkroom.tuning.plan import Plan
from darkroom.tuning.space.domains import Space
from darkroom.tuning.space.syntax import parse
from darkroom.tuning.study import Outcome, Search
from darkroom.tuning.trial import Report

SPACE = parse(
    {"learning_rate": {"float": [0.01, 1.0], "log": True}, "optimizer.name": {"categorical": ["sgd", "adam"]}}
)
BASELINE = {"learning_rate": 0.1, "optimizer.name": "sgd"}


def a_plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "sampler": "tpe",
        "pruner": "none",
        "seed": 7,
        "objectives": ("val_accuracy",),
        "limits": {},
        "n_startup_trials": 3,
    }
    return Plan(**{**settings, **changes})


def a_search(
    storage: str | Path, *, plan: Plan | None = None, space: Space = SPACE, about: str = "a", baseline: Any = BASELINE
) -> Search:
    return Search(
        "s",
        storage=str(storage),
        space=space,
        plan=plan or a_plan(),
        baseline=baseline,
        about=about,
        rename=f"s-{about[:8]}",
    )


def a_report(number: int, storage: str | Path, plan: Plan | None = None, *, judged: range = range(9)) -> Report:
    return Report(number, study="s", storage=str(storage), plan=plan or a_plan(), judged=judged)


def complete(accuracy: float, **costs: float) -> Outcome:
    return Outcome("complete", {"val_accuracy": accuracy, **costs})
