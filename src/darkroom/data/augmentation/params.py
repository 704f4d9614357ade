"""The section `augment` of params.yaml."""

from typing import Any

from pydantic import Field

from darkroom.project.params import Section, Seed


class AugmentParams(Section):
    """The section `augment`."""

    copies: int = Field(ge=0)
    seed: Seed
    preview_images: int = Field(ge=1)
    transforms: list[dict[str, dict[str, Any] | None]]
