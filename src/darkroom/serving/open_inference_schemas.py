"""Requests and answers of the Open Inference Protocol, as they are validated and described in the OpenAPI document."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

DATATYPES = {  # of the outputs; those of the second line are optional
    **{"label": "BYTES", "probability": "FP32", "probabilities": "FP32", "abstained": "BOOL"},
    **{"familiarity": "FP32", "unknown": "BOOL", "prediction_set": "BOOL"},
}
Size = Annotated[int, Field(strict=True, ge=1, le=1 << 31)]


class Parameters(BaseModel):
    """Parameters of a tensor; those of other extensions are ignored."""

    binary_data_size: int | None = Field(None, strict=True, ge=0, description="Bytes of it behind the JSON.")


class Tensor(BaseModel):
    """The images of a request."""

    name: Literal["image"]
    datatype: Literal["BYTES"]
    shape: list[Size] = Field(min_length=1, max_length=2, description="[n] or [n, 1].")
    parameters: Parameters = Parameters()
    data: list[str | list[str]] | None = Field(None, description="Image files in base64, flat or nested.")


class OutputParameters(BaseModel):
    """Parameters of a requested output."""

    binary_data: bool | None = Field(None, description="Whether it is to come behind the JSON.")


class Output(BaseModel):
    """A requested output."""

    name: Literal["label", "probability", "probabilities", "abstained", "familiarity", "unknown", "prediction_set"]
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """Parameters of a request."""

    binary_data_output: bool = Field(False, description="Whether outputs that do not say it come behind the JSON.")


class InferRequest(BaseModel):
    """A request to /infer."""

    id: str | None = Field(None, max_length=128)
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[Output] = Field([], max_length=len(DATATYPES), description="Default: all.")
    parameters: RequestParameters = RequestParameters()


class InferOutput(BaseModel):
    """One output for all images."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, description="Flat, row after row; missing where it is behind the JSON.")


class InferAnswer(BaseModel):
    """An answer of /infer."""

    model_name: str
    model_version: str
    id: str = Field(description="Of the request, or its X-Request-ID.")
    outputs: list[InferOutput]
