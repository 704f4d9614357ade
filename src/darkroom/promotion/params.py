"""The section `promote` of params.yaml. A candidate must pass all gates; null switches a gate off."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from darkroom.project.params import Section

Attribute = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ClassFloor(Section):
    """gates.every_class and gates.new_class: for the candidate alone, on test set and recent images together."""

    min_recall: Share
    min_images: Count


class ChampionGate(Section):
    """gates.champion; see against_champion.py."""

    statistic: Literal["accuracy", "brier", "log_loss"]
    margin: Annotated[float, Field(ge=0, lt=1)]
    alpha: Level
    comparisons: Count


class ChampionRecentGate(Section):
    """gates.champion_recent: the comparison of gates.champion, on recent images."""

    min_images: Count


class ClassRecallGate(Section):
    """gates.class_recall."""

    max_drop: Share
    max_unproven_drop: Share
    alpha: Level


class SliceAccuracyGate(Section):
    """gates.slice_accuracy; see slices.py for the attributes."""

    by: Annotated[list[Attribute], Field(min_length=1)]
    max_drop: Share
    alpha: Level
    min_images: Count


class Gates(Section):
    """All gates; accuracies, recalls and their differences are in [0, 1], `alpha` is a significance level."""

    min_test_images: Count | None
    min_test_accuracy: Share | None
    every_class: ClassFloor | None
    new_class: ClassFloor | None
    champion: ChampionGate | None
    champion_recent: ChampionRecentGate | None
    class_recall: ClassRecallGate | None
    slice_accuracy: SliceAccuracyGate | None
    max_ece: Share | None
    max_error_answered: Share | None
    min_answered: Share | None
    min_coverage: Share | None
    max_latency_ms_p95: Annotated[float, Field(gt=0)] | None
    max_model_bytes: Count | None
    max_parity_difference: Annotated[float, Field(gt=0, le=1)] | None

    @field_validator("champion_recent")
    @classmethod
    def _with_champion(cls, gate: ChampionRecentGate | None, info: ValidationInfo) -> ChampionRecentGate | None:
        if gate is not None and info.data.get("champion", gate) is None:
            raise ValueError("expected null, because it is decided by the rule of gates.champion, which is null")
        return gate


class PromoteParams(Section):
    """The section `promote`."""

    registered_model: str = Field(pattern=r"^\w[\w .-]*$", max_length=200)
    approval: Literal["automatic", "manual"]
    from_experiments: bool
    hold_days: Annotated[float, Field(ge=0)] | None
    gates: Gates
