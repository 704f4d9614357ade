"""The bodies of requests and answers as models: what FastAPI writes the OpenAPI document from."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class OneImage(BaseModel):
    """One image."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="An image file in base64, with or without `data:...;base64,` before it.")


class Images(BaseModel):
    """Several images; max_images of /v1/model says how many."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, description="Image files in base64.")


class Prediction(BaseModel):
    """What the network says about one image."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="The most probable class.")
    probability: float = Field(description="Of the label.", ge=0, le=1.0001)
    probabilities: dict[str, float] = Field(description="Of every class.")
    abstained: bool = Field(description="True where the probability is below the model's own threshold.")


class Unread(BaseModel):
    """An image that could not be read."""

    model_config = ConfigDict(extra="forbid")

    error: str = Field(description="Why, in one sentence.")


class Answer(BaseModel):
    """The answers to the images of a request, in their order, all by one version. At least one could be read."""

    model: str
    version: str
    predictions: list[Prediction | Unread]


class NoneRead(BaseModel):
    """No image of the request could be read."""

    model: str
    version: str
    error: str
    predictions: list[Unread]


class Problem(BaseModel):
    """Why a request is refused."""

    error: str = Field(description="One sentence: what came, what was expected.")


class Status(BaseModel):
    """The answer to a probe."""

    status: str


class ModelFacts(BaseModel):
    """The version that answers, and the limits of a request."""

    model: str
    version: str
    alias: str | None = Field(description="The alias that is followed; null: the version is fixed.")
    since: datetime = Field(description="When this server took the version over.")
    run_id: str | None = Field(description="The MLflow run that trained it.")
    classes: list[str]
    image_shape: list[int] = Field(min_length=3, max_length=3, description="Height, width, channels of the network.")
    abstain_below: float | None
    problem: str | None = Field(description="Why it is not the version under the alias; null: it is.")
    max_body_bytes: int
    max_pixels: int
    max_images: int
