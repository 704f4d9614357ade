"""The section `embed` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from darkroom.project.params import Section

Edge = Annotated[int, Field(ge=1, le=8192)]  # pixels


class WeightsFile(Section):
    """A user's own file. DVC does not watch it; with its sha256 a changed file is refused."""

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


class EmbedParams(Section):
    """The section `embed`."""

    backbone: str
    weights: Literal["imagenet", "none"] | WeightsFile
    image_size: Annotated[list[Edge], Field(min_length=2, max_length=2)]
    max_images: Annotated[int, Field(ge=1)] | None
    seed: int = Field(ge=0)
