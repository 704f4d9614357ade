"""Write the results of a search: best.yaml for train, and a directory with trials, choice and plots."""

import json
from pathlib import Path
from typing import Any

from darkroom.files.writing import write_text
from darkroom.training import overrides
from darkroom.tuning.choice import ChosenTrial
from darkroom.tuning.plan import Plan
from darkroom.tuning.rows import TrialRow, write_csv
from darkroom.tuning.space.domains import Range, Space, domains


def write(best: Path, folder: Path, *, rows: list[TrialRow], chosen: ChosenTrial, values: dict[str, Any]) -> None:
    """Write best.yaml, trials.csv and chosen.json.

    Args:
        values: of the chosen trial, by dotted key of train; {} if train's own are kept.
    """
    write_csv(rows, folder / "trials.csv")
    said = {"trial": chosen.number, "reason": chosen.reason, "values": values}
    write_text(folder / "chosen.json", json.dumps(said, indent=2) + "\n")
    # Only the values, so that train does not run again if they are the same.
    overrides.write(best, values, comment="tuned values that replace those of params.yaml")


def draw(
    folder: Path, *, rows: list[TrialRow], scores: dict[str, float], space: Space, plan: Plan, chosen: int | None
) -> None:
    """Draw the plots of a search; scores: the importance of its parameters."""
    from darkroom.tuning.figures import course, parameters

    logarithmic = {name for name, domain in domains(space).items() if isinstance(domain, Range) and domain.log}
    course.history(rows, folder / "history.png")
    course.curves(rows, folder / "curves.png")
    parameters.slices(rows, folder / "slices.png", scores=scores, logarithmic=logarithmic)
    parameters.importance(scores, folder / "importance.png")
    for cost in plan.objectives[1:]:
        limit = plan.limits.get(cost)
        course.pareto(rows, cost, folder / "pareto.png", chosen=chosen, limit=limit)
