"""The section `promote` of params.yaml: a candidate must pass all gates; one that is null is off."""

from typing import Annotated, Literal

from pydantic import Field

from darkroom.project.params import Section

Attribute = Literal["brightness", "size", "source", "incoming"]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ChampionGate(Section):
    """gates.champion."""

    margin: Annotated[float, Field(ge=0, lt=1)]
    alpha: Level


class ClassRecallGate(Section):
    """gates.class_recall."""

    max_drop: Share
    alpha: Level


class SliceAccuracyGate(Section):
    """gates.slice_accuracy; see slices.py for the attributes."""

    by: Annotated[list[Attribute], Field(min_length=1)]
    max_drop: Share
    alpha: Level
    min_images: Count


class Gates(Section):
    """All gates; accuracies, recalls and their differences are in [0, 1], `alpha` is a level of significance."""

    min_test_images: Count | None
    min_test_accuracy: Share | None
    champion: ChampionGate | None
    class_recall: ClassRecallGate | None
    slice_accuracy: SliceAccuracyGate | None
    max_ece: Share | None
    max_latency_ms_p95: Annotated[float, Field(gt=0)] | None
    max_model_bytes: Count | None
    max_parity_difference: Annotated[float, Field(gt=0, le=1)] | None


class PromoteParams(Section):
    """The section `promote`."""

    registered_model: str = Field(pattern=r"^\w[\w .-]*$", max_length=200)
    approval: Literal["automatic", "manual"]
    from_experiments: bool
    hold_days: Annotated[float, Field(ge=0)] | None
    gates: Gates
