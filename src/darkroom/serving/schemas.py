"""The bodies of requests and answers as models, for FastAPI's OpenAPI document."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from darkroom.monitoring.feedback import MAX_LABEL, REQUEST_ID, SHA256

REQUEST = Field(description="Of the request: its X-Request-ID, or one that the server chose.")

REFUSALS = {
    400: "The body is empty, not in the form of its Content-Type, or has too many images; or a parameter is wrong.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the limit; the rest of it was not read.",
    415: "The Content-Type is not understood.",
    503: "Too many requests are waiting; Retry-After says when to try again.",
}


class OneImage(BaseModel):
    """One image."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="An image file in base64, with or without `data:...;base64,` before it.")


class Images(BaseModel):
    """Several images; max_images of /v1/model says how many."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, description="Image files in base64.")


class OneLabel(BaseModel):
    """The true class of one image that was classified."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, description="The sha256 of the image file in hex, or the request_id of its answer.")
    sha256: str | None = Field(None, description="The same as id, for a sha256 alone.")
    position: int | None = Field(
        None, ge=0, lt=1 << 31, description="Of the image, from 0, where that request had several."
    )
    label: str = Field(
        min_length=1, max_length=MAX_LABEL, description="The true class; it may be one that the model does not know."
    )

    @property
    def image(self) -> str:
        """The id that was given; a sha256 in lower case."""
        given = self.id or self.sha256 or ""
        return given.lower() if SHA256.fullmatch(given.lower()) else given

    @model_validator(mode="after")
    def _names_one_image(self) -> Self:
        if (self.id is None) == (self.sha256 is None):
            raise ValueError("expected either id or sha256")
        if not SHA256.fullmatch(self.image) and (self.sha256 is not None or not REQUEST_ID.fullmatch(self.image)):
            raise ValueError(
                "expected the sha256 of an image file, 64 hex digits, or in id the request_id of an answer"
            )
        return self


class Labels(BaseModel):
    """The true classes of several images."""

    model_config = ConfigDict(extra="forbid")

    feedback: list[OneLabel] = Field(min_length=1, max_length=1000)


class Stored(BaseModel):
    """The labels are stored."""

    request_id: str = REQUEST
    n_stored: int
    unknown_classes: list[str] = Field(description="Labels that the version does not know: stored, and never right.")


class Prediction(BaseModel):
    """The prediction for one image."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="The most probable class.")
    probability: float = Field(description="Of the label.", ge=0, le=1.0001)
    probabilities: dict[str, float] = Field(description="Of every class.")
    abstained: bool = Field(description="True where the probability is below the model's threshold, or it is unknown.")
    familiarity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of known images that look at least as strange; missing: the model cannot tell.",
    )
    unknown: bool | None = Field(None, description="True where the familiarity is below unknown_below of the model.")
    prediction_set: list[str] | None = Field(
        None,
        min_length=1,
        description="The true class is among these for the model's coverage of images; the most probable first. "
        "Missing: the model has no sets.",
    )


class Explanation(Prediction):
    """The prediction for an image, and a map of what in it supports the prediction."""

    request_id: str = REQUEST
    model: str
    version: str
    method: str = Field(description="Class activation map, which is exact, or RISE, which covers parts of the image.")
    map: str = Field(
        description="PNG as data: URI: the image as the network sees it; bright places speak for the label."
    )


class Unread(BaseModel):
    """An image that could not be read."""

    model_config = ConfigDict(extra="forbid")

    error: str = Field(description="Why, in one sentence.")


class Answer(BaseModel):
    """The answers for the images of a request, in order, all by one version. At least one could be read."""

    request_id: str = REQUEST
    model: str
    version: str
    predictions: list[Prediction | Unread]


class NoneRead(BaseModel):
    """No image of the request could be read."""

    request_id: str = REQUEST
    model: str
    version: str
    error: str
    predictions: list[Unread]


class Problem(BaseModel):
    """The reason why a request is refused."""

    error: str = Field(description="One sentence: what came, what was expected.")
    request_id: str = REQUEST


class Status(BaseModel):
    """The answer to a probe."""

    status: str


class ModelFacts(BaseModel):
    """The version that answers, and the limits of a request."""

    request_id: str = REQUEST
    model: str
    version: str
    alias: str | None = Field(description="The alias that is followed; null: the version is fixed.")
    since: datetime = Field(description="When this server took the version over.")
    run_id: str | None = Field(description="The MLflow run that trained it.")
    classes: list[str]
    image_shape: list[int] = Field(min_length=3, max_length=3, description="Height, width, channels of the network.")
    abstain_below: float | None
    unknown_below: float | None
    coverage: float | None = Field(description="Share of images whose true class is in the prediction_set.")
    problem: str | None = Field(description="Why it is not the version under the alias; null: it is.")
    max_body_bytes: int
    max_pixels: int
    max_images: int
    feedback: bool = Field(description="Whether true labels are taken: the server keeps a log of predictions.")
    explain: bool = Field(description="Whether answers are explained: the server runs with --explain.")
