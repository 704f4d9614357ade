"""The section `preprocess` of params.yaml."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from darkroom.project.params import Section, Seed

Edge = Annotated[int, Field(ge=1, le=8192)]  # pixels
Level = Annotated[int, Field(ge=0, le=255)]


def _pattern(text: str) -> str:
    try:
        n_groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if n_groups > 1:
        raise ValueError(f"expected a regular expression with one group in parentheses, got {n_groups}")
    return text


class PreprocessParams(Section):
    """The section `preprocess`."""

    image_size: Annotated[list[Edge], Field(min_length=2, max_length=2)] | Literal["auto"]
    color: Literal["grey", "rgb", "auto"]
    resize: Literal["stretch", "letterbox", "crop", "auto"]
    background: Annotated[list[Level], Field(min_length=3, max_length=3)]
    white_level: Annotated[int, Field(ge=255, le=65535)] | Literal["auto"]
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    recent_fraction: float = Field(gt=0, lt=1)
    seed: Seed
    group_by: Annotated[str, AfterValidator(_pattern)] | None
    near_duplicates: Literal["keep", "drop", "group"]
    near_duplicate_bits: int = Field(ge=0, le=8)
    max_rejected_fraction: float = Field(ge=0, le=1)
    max_image_bytes: int = Field(ge=1)
    max_image_pixels: int = Field(ge=1)
    max_archive_bytes: int = Field(ge=1)
    shard_bytes: int = Field(ge=1)
