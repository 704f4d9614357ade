"""The plan of a search: sampler, pruner, objectives. Needs no Optuna, so `check` stays fast."""

import importlib.util
import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.errors import ParamsError
from darkroom.tuning.space.domains import Space, grid

PACKAGES = {"cma-es": "cmaes", "gp": "torch"}  # needed by a sampler besides Optuna


@dataclass(frozen=True)
class Plan:
    """The plan of a search.

    Args:
        sampler: tpe (Bergstra et al. 2011; multivariate, a group per branch of a conditional space, and a constant liar
            for running trials), random, grid, cma-es (Hansen & Ostermeier 2001), gp (a Gaussian process) or qmc
            (Sobol's sequence).
        pruner: median (of earlier trials after as many epochs) or none; used after the epochs of trial.judged.
        seed: of the sampler.
        objectives: val_accuracy, optionally followed by one of rows.COSTS.
        limits: {metric: maximum}; a trial above one is not feasible.
        n_startup_trials: number of random trials before TPE begins.
    """

    sampler: str
    pruner: str
    seed: int
    objectives: tuple[str, ...]
    limits: Mapping[str, float]
    n_startup_trials: int


def check(plan: Plan, space: Space) -> None:
    """Check that sampler and pruner support the space and the objectives, and that their packages are installed.

    Raises:
        ParamsError: they do not, or a package is missing.
    """
    if len(plan.objectives) > 1 and plan.pruner != "none":
        raise ParamsError(
            f"pruner is {plan.pruner} with {len(plan.objectives)} objectives, with which no trial can be stopped "
            "early; set pruner to none"
        )
    if len(plan.objectives) > 1 and plan.sampler == "cma-es":
        raise ParamsError("sampler cma-es supports only one objective; use tpe, random, grid, gp or qmc for two")
    if plan.sampler == "grid":
        grid_points(space, seed=plan.seed)
    package = PACKAGES.get(plan.sampler)
    if package and importlib.util.find_spec(package) is None:
        raise ParamsError(
            f"sampler {plan.sampler} needs the package {package}: .venv/bin/uv pip install {package}; or use tpe"
        )


def grid_points(space: Space, *, seed: int) -> list[dict[str, Any]]:
    """Return every combination of the values of a space, in an order drawn from the seed: names to values.

    Raises:
        ParamsError: see domains.grid.
    """
    values = grid(space)
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    random.Random(seed).shuffle(points)  # noqa: S311 - not a secret
    return points
