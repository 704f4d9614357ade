"""The section `augment` of params.yaml."""

from typing import Any

from pydantic import Field

from darkroom.project.params import Section


class AugmentParams(Section):
    """The section `augment`."""

    copies: int = Field(ge=0)
    seed: int
    preview_images: int = Field(ge=1)
    transforms: list[dict[str, dict[str, Any] | None]]
