"""Create Optuna's samplers and pruners by name."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from darkroom.tuning.plan import Plan
from darkroom.tuning.space.domains import Space, is_conditional


def make_sampler(plan: Plan, space: Space, *, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of a plan."""
    with quiet():
        if plan.sampler == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=is_conditional(space),
                constant_liar=True,
                n_startup_trials=plan.n_startup_trials,
            )
        if plan.sampler in ("random", "grid"):  # grid points are queued, because Optuna's sampler needs Study.optimize
            return optuna.samplers.RandomSampler(seed=seed)
        if plan.sampler == "cma-es":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if plan.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        return optuna.samplers.QMCSampler(seed=plan.seed, scramble=True, warn_independent_sampling=False)


def make_pruner(plan: Plan) -> optuna.pruners.BasePruner:
    """Return the pruner of a plan."""
    with quiet():
        if plan.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=3)
        return optuna.pruners.NopPruner()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Optuna's warnings: that a feature is experimental, or that a pruner cannot judge a trial yet."""
    with warnings.catch_warnings():
        for kind in (UserWarning, optuna.exceptions.ExperimentalWarning):
            warnings.simplefilter("ignore", kind)
        yield
