"""The section `evaluate` of params.yaml."""

from pydantic import Field

from darkroom.project.params import Section


class EvaluateParams(Section):
    """The section `evaluate`."""

    calibration_bins: int = Field(ge=1)
    worst_images: int = Field(ge=0)
    latency_repeats: int = Field(ge=1)
