"""The Open Inference Protocol (version 2, of KServe and Triton) for the images and answers of /v1/predict.

A request has one input, `image`: n image files as BYTES, in the JSON as base64, or after it in the format of the
extension for binary data (a length in 4 bytes before each).
"""

import json
import re
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import ValidationError

from darkroom.serving.bodies import from_base64, too_many
from darkroom.serving.follower import Follower, Served
from darkroom.serving.limits import Refused, Unready
from darkroom.serving.open_inference_schemas import DATATYPES, InferAnswer, InferRequest, Tensor
from darkroom.serving.schemas import REFUSALS, Problem

N_JSON = b"inference-header-content-length"  # header with the number of bytes of JSON before binary data
LIVE, READY = "/v2/health/live", "/v2/health/ready"
WELCOME = "send one input named image, image files as BYTES of shape [n], base64 in JSON or binary data behind it"
MAX_LISTS = 32  # in the JSON, besides one per image, to bound the result of json.loads: base64 has no brackets
MAX_VALUES = 128  # likewise
OF_EVERY_CLASS = ("probabilities", "prediction_set")  # shape [n, classes]
_INFER = re.compile(r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer")
Responses = dict[int | str, dict[str, Any]]  # of a path, as FastAPI describes them


@dataclass(frozen=True)
class Asked:
    """A parsed request.

    Attributes:
        images: see bodies.images_of.
        outputs: whether each requested output is binary, by name; empty: all outputs of the model.
        binary: whether these are binary.
    """

    images: list[bytes | str]
    id: str | None
    outputs: dict[str, bool]
    binary: bool = False

    @classmethod
    def of(cls, body: bytes, n_json: bytes | None, *, max_images: int) -> "Asked":
        """Parse a body.

        Args:
            n_json: the header N_JSON; None: the body is only JSON.

        Raises:
            Refused: the body does not have the form of WELCOME, or has more than max_images.
        """
        end = len(body)
        if n_json is not None:
            if not re.fullmatch(rb"[0-9]{1,12}", n_json) or int(n_json) > len(body):
                raise _bad("Inference-Header-Content-Length is not the length of the JSON in the body")
            end = int(n_json)
        request = _request(body[:end], max_images=max_images)
        (tensor,) = request.inputs
        if prod(tensor.shape) > max_images:
            raise too_many(max_images)
        images = _images(tensor, body[end:])
        binary = request.parameters.binary_data_output
        asked: dict[str, bool | None] = {one.name: one.parameters.binary_data for one in request.outputs}
        return cls(images, request.id, {name: binary if own is None else own for name, own in asked.items()}, binary)


def model_of(path: str) -> tuple[str, str | None] | None:
    """Return name and version of the model in the path of /infer, None for other paths."""
    found = _INFER.fullmatch(path)
    return (found["name"], found["version"]) if found else None


def check_model(served: Served, name: str, version: str | None) -> None:
    """Refuse another model than the served one.

    Raises:
        Refused: 404.
    """
    here = served.version
    if (name, version or here.version) != (here.name, here.version):
        asked = f"{name[:80]!a}" + (f" version {version[:20]!a}" if version else "")
        raise Refused(404, f"{asked} is not served here; {here.name} version {here.version} is")


def check_outputs(asked: Asked, served: Served) -> list[str]:
    """Return the names of the outputs of a model.

    Raises:
        Refused: 400, the model lacks a requested output.
    """
    told = _outputs(served)
    if missing := [name for name in asked.outputs if name not in told]:
        here = f"{served.version.name} version {served.version.version}"
        raise _bad(f"{here} does not tell {' and '.join(missing)}; its outputs are {', '.join(told)}")
    return told


def answer(
    asked: Asked, served: Served, answers: Sequence[Mapping[str, Any]], *, request_id: str
) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of an answer, and the binary outputs after it.

    Raises:
        Refused: 400, the model lacks a requested output; 422, an image could not be read, because the protocol has no
            errors of single images.
    """
    told = check_outputs(asked, served)
    for number, one in enumerate(answers):
        if "error" in one:
            raise Refused(422, f"image {number}: {one['error']}" if len(answers) > 1 else one["error"])
    n, classes = len(answers), served.facts.classes
    outputs, behind = list[dict[str, Any]](), list[bytes]()
    for name, is_binary in (asked.outputs or dict.fromkeys(told, asked.binary)).items():
        data = [one[name] for one in answers]
        if name == "probabilities":
            data = [one[c] for one in data for c in classes]
        elif name == "prediction_set":
            data = [c in one for one in data for c in classes]
        shape = [n, len(classes)] if name in OF_EVERY_CLASS else [n]
        output = {"name": name, "datatype": DATATYPES[name], "shape": shape}
        if is_binary:
            behind.append(_packed(DATATYPES[name], data))
            outputs.append({**output, "parameters": {"binary_data_size": len(behind[-1])}})
        else:
            outputs.append({**output, "data": data})
    version = served.version
    said = {"model_name": version.name, "model_version": version.version, "id": asked.id or request_id}
    return {**said, "outputs": outputs}, b"".join(behind)


def check_ready(unready: Unready) -> None:
    """Refuse while the server should get no requests.

    Raises:
        HTTPException: 503.
    """
    if why := unready():
        raise HTTPException(503, why)


def add_routes(router: APIRouter, follower: Follower, unready: Unready) -> None:
    """Add the routes of server and model; the front answers /infer, which is here for the OpenAPI document."""

    async def of_name(name: str) -> Served:
        return _served(follower, name, None)

    async def of_version(name: str, version: str) -> Served:
        return _served(follower, name, version)

    @router.get("/v2", summary="The server, as the Open Inference Protocol describes one")
    async def server(request: Request) -> dict[str, Any]:
        return {"name": "darkroom", "version": request.app.version, "extensions": ["binary_tensor_data"]}

    _add_model_routes(router, "/v2/models/{name}", of_name, unready)
    _add_model_routes(router, "/v2/models/{name}/versions/{version}", of_version, unready)


def _add_model_routes(router: APIRouter, path: str, asked: Callable[..., Awaitable[Served]], unready: Unready) -> None:
    other: Responses = {404: {"model": Problem, "description": "Another model is served."}}
    refused: Responses = {503: {"model": Problem, "description": "Not now; error says why."}}

    @router.get(path, summary="The model's inputs and outputs", responses=other)
    async def metadata(served: Annotated[Served, Depends(asked)]) -> dict[str, Any]:
        classes = served.facts.classes
        outputs = [
            {"name": name, "datatype": DATATYPES[name], "shape": [-1, len(classes)] if name in OF_EVERY_CLASS else [-1]}
            for name in _outputs(served)
        ]
        return {
            "name": served.version.name,
            "versions": [served.version.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
            "outputs": outputs,
            "parameters": {"classes": classes},
        }

    @router.get(f"{path}/ready", summary="Should this model get requests?", responses=other | refused)
    async def ready(served: Annotated[Served, Depends(asked)]) -> dict[str, Any]:
        check_ready(unready)
        return {"name": served.version.name, "ready": True}

    described = {**REFUSALS, 422: "An image cannot be read."}
    of_infer: Responses = {status: {"model": Problem, "description": text} for status, text in described.items()}

    @router.post(f"{path}/infer", summary="Classify images", response_model=InferAnswer, responses=other | of_infer)
    async def infer(body: InferRequest, served: Annotated[Served, Depends(asked)]) -> None:
        """Images and answers are in the JSON, or after it in the format of the extension for binary data."""


def _outputs(served: Served) -> list[str]:
    """Return the names of the model's outputs."""
    unknown_below, coverage = served.facts.unknown_below, served.facts.coverage
    of = {"familiarity": unknown_below, "unknown": unknown_below, "prediction_set": coverage}
    return [name for name in DATATYPES if name not in of or of[name] is not None]


def _served(follower: Follower, name: str, version: str | None) -> Served:
    served = follower.served  # once: the follower may replace it
    try:
        check_model(served, name, version)
    except Refused as refusal:
        raise HTTPException(refusal.status, refusal.message) from None
    return served


def _request(text: bytes, *, max_images: int) -> InferRequest:
    if text.count(b"[") + text.count(b"{") > MAX_LISTS + max_images or text.count(b",") > MAX_VALUES + 2 * max_images:
        raise _bad(f"the JSON does not have the expected form, or has more than {max_images} images")
    try:
        return InferRequest.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise _bad(f"the body is not JSON ({' '.join(str(error).split())[:100]})") from None


def _images(tensor: Tensor, behind: bytes) -> list[bytes | str]:
    size, n_images = tensor.parameters.binary_data_size, prod(tensor.shape)
    if (size is None) == (tensor.data is None) or len(behind) != (size or 0):
        raise _bad("expected either data, or binary_data_size and so many bytes behind the JSON")
    if tensor.data is not None:
        texts = [text for row in tensor.data for text in ([row] if isinstance(row, str) else row)]
        if len(texts) != n_images:
            raise _bad(f"expected {n_images} texts in data, as the shape says, not {len(texts)}")
        return [from_base64(text) for text in texts]
    files, at = list[bytes | str](), 0
    while at + 4 <= len(behind) and len(files) < n_images:
        (length,) = struct.unpack_from("<I", behind, at)
        files.append(behind[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(behind) or len(files) != n_images:
        raise _bad(f"expected {n_images} elements in the binary data, each behind its length in 4 bytes")
    return files


def _packed(datatype: str, data: list[Any]) -> bytes:
    """Return values in the format of the extension for binary data."""
    if datatype != "BYTES":
        return np.array(data, "<f4" if datatype == "FP32" else "?").tobytes()
    texts = [text.encode() for text in data]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _bad(what: str) -> Refused:
    return Refused(400, f"{what}; {WELCOME}")
