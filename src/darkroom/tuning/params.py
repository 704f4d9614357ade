"""The section `tune` of params.yaml."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from darkroom.project.params import Section, Seed, in_section
from darkroom.training.params import Count, NonNegative, Positive
from darkroom.tuning.location import check_storage
from darkroom.tuning.plan import Plan, check
from darkroom.tuning.space import checks
from darkroom.tuning.space.domains import Space

# Settings that do not affect the result; the study is continued when they change.
CONTINUING = {
    "trials",
    "minutes",
    "alpha",
    "confirm",
    "workers",
    "cpus",
    "gpus",
    "max_worker_bytes",
    "storage",
    "study",
    "space",
}


class TuneParams(Section):
    """The section `tune`."""

    trials: Annotated[int, Field(ge=0)]  # per candidate
    minutes: Positive | None
    epochs: Count | None  # at most, of each phase of a trial
    fraction: Annotated[float, Field(gt=0, le=1)]  # of the training images
    sampler: Literal["tpe", "random", "grid", "cma-es", "gp", "qmc"]
    pruner: Literal["median", "none"]
    objectives: list[Literal["val_accuracy", "latency_ms", "model_bytes"]]
    max_latency_ms: Positive | None
    max_model_bytes: Count | None
    alpha: Annotated[float, Field(gt=0, le=1)]
    confirm: bool | Positive  # minutes
    space: dict[str, Any]
    seed: Seed
    workers: Count | Literal["auto"]
    cpus: Count | Literal["auto"]  # per worker
    gpus: NonNegative  # per worker, on a cluster
    max_worker_bytes: Count | None
    storage: str | None
    study: Annotated[str, Field(pattern=r"^[\w-]+$")] | None  # the candidate's name is added

    @field_validator("objectives")
    @classmethod
    def _accuracy_first(cls, value: list[str]) -> list[str]:
        if value not in (["val_accuracy"], ["val_accuracy", "latency_ms"], ["val_accuracy", "model_bytes"]):
            raise ValueError("expected [val_accuracy], alone or followed by latency_ms or model_bytes")
        return value

    @property
    def limits(self) -> dict[str, float]:
        """The maximum values of metrics that have a limit."""
        both = {"latency_ms": self.max_latency_ms, "model_bytes": self.max_model_bytes}
        return {metric: float(limit) for metric, limit in both.items() if limit is not None}

    @property
    def plan(self) -> Plan:
        """How the space is searched."""
        return Plan(
            sampler=self.sampler,
            pruner=self.pruner,
            seed=self.seed,
            objectives=tuple(str(metric) for metric in self.objectives),
            limits=self.limits,
            n_startup_trials=min(10, max(3, self.trials // 4)),  # Optuna's 10 would take all of a short search
        )

    def why_untuned(self, candidate: str) -> str | None:
        """Return the reason why a candidate is not tuned, or None if it is."""
        if self.trials == 0:
            return "tune.trials is 0"
        return None if self.space.get(candidate) else f"tune.space.{candidate} is empty"

    def space_of(self, candidate: str, base: Mapping[str, Any]) -> Space:
        """Return the space of a candidate, after checking it against its section of train and the plan.

        Raises:
            ParamsError: a setting does not fit.
        """
        space = checks.read(self.space, candidate, base, is_searched=self.trials > 0)
        with in_section("tune"):
            check(self.plan, space)
            if self.storage is not None:
                check_storage(self.storage)
        return space

    def deciding(self, candidate: str) -> dict[str, Any]:
        """Return the settings that affect the result of the candidate's search; a change begins a new study."""
        return self.model_dump(exclude=CONTINUING) | {"space": self.space[candidate]}
