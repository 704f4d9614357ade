"""What a tuning leaves behind: best.yaml for train, and a folder with all trials, the choice and its pictures."""

import json
from pathlib import Path
from typing import Any

from darkroom import overrides
from darkroom.files import write_text
from darkroom.search_plan import Plan
from darkroom.space import Range, Space, domains
from darkroom.trial_choice import Choice
from darkroom.trial_rows import TrialRow, write_csv


def write(best: Path, folder: Path, *, rows: list[TrialRow], chosen: Choice, values: dict[str, Any]) -> None:
    """Write best.yaml, trials.csv and chosen.json.

    Args:
        values: of the chosen trial, by dotted key of train; {} where train's own are kept.
    """
    write_csv(rows, folder / "trials.csv")
    said = {"trial": chosen.number, "reason": chosen.reason, "values": values}
    write_text(folder / "chosen.json", json.dumps(said, indent=2) + "\n")
    # Nothing but the values: with equal ones the file is equal, and train does not run again.
    overrides.write(best, values, comment="what tune puts in place of values of params.yaml")


def draw(
    folder: Path, *, rows: list[TrialRow], scores: dict[str, float], space: Space, plan: Plan, chosen: int | None
) -> None:
    """Draw the pictures of a search; scores: the importance of its parameters."""
    from darkroom import figures_parameters, figures_tuning

    logarithmic = {name for name, domain in domains(space).items() if isinstance(domain, Range) and domain.log}
    figures_tuning.history(rows, folder / "history.png")
    figures_tuning.curves(rows, folder / "curves.png")
    figures_parameters.slices(rows, folder / "slices.png", scores=scores, logarithmic=logarithmic)
    figures_parameters.importance(scores, folder / "importance.png")
    for cost in plan.objectives[1:]:
        limit = plan.limits.get(cost)
        figures_tuning.pareto(rows, cost, folder / "pareto.png", chosen=chosen, limit=limit)
