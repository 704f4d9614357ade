"""What the OpenAPI document says: the answers as models, and the operation that front.py answers itself."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

SUMMARY = "Classifies images with the registered version under an alias."
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVQIHWP4DwABAQEANl9ngAAAAABJRU5ErkJggg=="  # PNG, white
REFUSALS = {
    400: "The body is empty, or not in the form that its Content-Type announces, or has too many images.",
    401: "The token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the limit; the rest of it was not read.",
    415: "The Content-Type is not understood.",
    503: "Too much is waiting already; Retry-After says when to come back.",
}


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


class _OneImage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="An image file in base64, with or without `data:...;base64,` before it.")


class _Images(BaseModel):
    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, description="Image files in base64.")


EXAMPLE = {
    "model": "pets",
    "version": "3",
    "predictions": [
        {"label": "cat", "probability": 0.97, "probabilities": {"cat": 0.97, "dog": 0.03}, "abstained": False},
        {"error": "12 bytes are not an image; expected JPEG, PNG, WebP, BMP, GIF or TIFF"},
    ],
}


def with_predict(described: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an OpenAPI document with the operation POST `path` added."""
    models = (Answer, NoneRead, Problem, _OneImage, _Images)
    _, definitions = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    described.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    described["paths"][path] = {"post": _predict_operation()}
    return described


def _predict_operation() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    files = {
        "type": "object",
        "properties": {"image": {"type": "array", "items": binary["schema"]}},
        "required": ["image"],
    }
    encoded = {"one": {"value": {"image": PIXEL}}, "several": {"value": {"images": [PIXEL, PIXEL]}}}
    return {
        "summary": "Classify one image or several",
        "description": (
            "One image that cannot be read is answered with 422. Of several, each has its own answer, and the status "
            "is 422 only if none could be read."
        ),
        "operationId": "predict",
        "requestBody": {
            "required": True,
            "content": {
                "image/*": binary,
                "application/octet-stream": binary,
                "multipart/form-data": {"schema": files},
                "application/json": {"schema": {"anyOf": [_ref("_OneImage"), _ref("_Images")]}, "examples": encoded},
            },
        },
        "responses": {
            "200": _response("At least one image was classified.", "Answer"),
            "422": _response("No image could be read.", "NoneRead"),
            **{str(status): _response(text, "Problem") for status, text in REFUSALS.items()},
        },
    }


def _response(description: str, model: str) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": _ref(model)}
    if model == "Answer":
        content["example"] = EXAMPLE
    return {"description": description, "content": {"application/json": content}}


def _ref(model: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model}"}
