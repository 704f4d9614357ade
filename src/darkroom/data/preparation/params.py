"""The section `preprocess` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from darkroom.project.params import Section

Edge = Annotated[int, Field(ge=1, le=8192)]  # pixels


class PreprocessParams(Section):
    """The section `preprocess`."""

    image_size: Annotated[list[Edge], Field(min_length=2, max_length=2)] | Literal["auto"]
    color: Literal["grey", "rgb", "auto"]
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    recent_fraction: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0)
    near_duplicates: Literal["keep", "drop", "group"]
    near_duplicate_bits: int = Field(ge=0, le=8)
    max_rejected_fraction: float = Field(ge=0, le=1)
    max_image_bytes: int = Field(ge=1)
    max_image_pixels: int = Field(ge=1)
    max_archive_bytes: int = Field(ge=1)
    shard_bytes: int = Field(ge=1)
