"""Parsing requests of the Open Inference Protocol; test_front.py uses a real server."""

import base64
import json
import struct
from typing import Any

import pytest

from darkroom.serving.limits import Refused
from darkroom.serving.open_inference import Asked, model_of

FILES: list[bytes | str] = [b"one", b"", b"three\0"]
ENCODED = [base64.b64encode(file).decode() for file in (b"one", b"", b"three\0")]
PACKED = b"".join(struct.pack("<I", len(file)) + file for file in (b"one", b"", b"three\0"))


def request(shape: list[Any], *, data: Any = None, size: int | None = None, **more: Any) -> bytes:
    tensor: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": shape}
    if data is not None:
        tensor["data"] = data
    if size is not None:
        tensor["parameters"] = {"binary_data_size": size, "classification": 3}
    return json.dumps({"inputs": [tensor], **more}).encode()


def taken(body: bytes, behind: bytes | None = None, n_json: bytes | None = None) -> Asked:
    length = n_json or (None if behind is None else str(len(body)).encode())
    return Asked.of(body + (behind or b""), length, max_images=4)


@pytest.mark.parametrize(
    ("shape", "data"),
    [([3], ENCODED), ([3, 1], [[text] for text in ENCODED]), ([1, 3], [ENCODED]), ([3, 1], ENCODED)],
)
def test_files_come_in_the_json_flat_or_nested(shape: list[int], data: Any) -> None:
    assert taken(request(shape, data=data)) == Asked(FILES, None, {})


def test_text_that_is_no_base64_fails_its_image_alone() -> None:
    (first, second) = taken(request([2], data=["#", f"data:image/png;base64,{ENCODED[0]}"])).images
    assert (str(first).startswith("not base64 ("), second) == (True, b"one")


def test_files_come_behind_the_json() -> None:
    assert taken(request([3], size=len(PACKED)), PACKED).images == FILES


def test_outputs_are_chosen_and_say_where_they_are_to_be() -> None:
    outputs = [{"name": "abstained", "parameters": {"binary_data": False}}, {"name": "label"}]
    body = request([1], data=["QQ=="], id="7", outputs=outputs, parameters={"binary_data_output": True})
    assert taken(body) == Asked([b"A"], "7", {"abstained": False, "label": True}, binary=True)


@pytest.mark.parametrize(
    ("body", "behind", "said"),
    [
        (b"", None, "the body is not JSON"),
        (b"[" * 30, None, "the body is not JSON"),
        (b"[" * 100_000, None, "has more than 4 images"),
        (b"[" + b"1," * 1000 + b"1]", None, "has more than 4 images"),
        (b"[]", None, "the body: Input should be"),
        (b"{}", None, "inputs: Field required"),
        (request([1], data=["QQ=="]).replace(b"image", b"picture"), None, "inputs.0.name: Input should be 'image'"),
        (request([1], data=["QQ=="]).replace(b"BYTES", b"FP32"), None, "inputs.0.datatype: Input should be 'BYTES'"),
        (request([1], data=[1]), None, "inputs.0.data.0"),
        (request([1], data=["QQ=="], outputs=[{"name": "score"}]), None, "outputs.0.name: Input should be 'label',"),
        (request([2], data=["QQ=="]), None, "expected 2 texts in data, as the shape says, not 1"),
        (request([5], data=["QQ=="]), None, "the request has more than 4 images"),
        (request([1 << 31, 1 << 31], data=["QQ=="]), None, "the request has more than 4 images"),
        (request([0], data=[]), None, "inputs.0.shape.0: Input should be greater than or equal to 1"),
        (request([-1], data=["QQ=="]), None, "inputs.0.shape.0: Input should be greater than or equal to 1"),
        (request([1.0], data=["QQ=="]), None, "inputs.0.shape.0: Input should be a valid integer"),
        (request([1, 1, 1], data=["QQ=="]), None, "inputs.0.shape: List should have at most 2 items"),
        (request([1]), None, "expected either data, or binary_data_size"),
        (request([1], data=["QQ=="], size=5), b"\1\0\0\0A", "expected either data, or binary_data_size"),
        (request([1], data=["QQ=="]), b"more", "expected either data, or binary_data_size"),
        (request([1], size=6), b"\1\0\0\0A", "expected either data, or binary_data_size and so many bytes"),
        (request([1], size=5), b"\2\0\0\0A", "expected 1 elements in the binary data"),
        (request([1], size=5), b"\xff\xff\xff\xffA", "expected 1 elements in the binary data"),
        (request([1], size=6), b"\1\0\0\0AB", "expected 1 elements in the binary data"),
        (request([2], size=8), b"\1\0\0\0A\0\0\0", "expected 2 elements in the binary data"),
        (request([2], size=5), b"\1\0\0\0A", "expected 2 elements in the binary data"),
    ],
)  # fmt: skip
def test_what_is_not_as_the_protocol_has_it_is_refused(body: bytes, behind: bytes | None, said: str) -> None:
    with pytest.raises(Refused) as refused:
        taken(body, behind)
    assert (refused.value.status, said in refused.value.message) == (400, True), refused.value.message
    assert len(refused.value.message) < 500


@pytest.mark.parametrize("n_json", [b"x", b"-1", b"+5", b"1 ", b"9999", b"1" * 5000])
def test_a_length_of_json_that_is_none_is_refused(n_json: bytes) -> None:
    with pytest.raises(Refused, match="Inference-Header-Content-Length is not the length of the JSON"):
        taken(request([1], size=5), b"\1\0\0\0A", n_json)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/pets/infer", ("pets", None)),
        ("/v2/models/pets/versions/3/infer", ("pets", "3")),
        ("/v2/models/my pets/infer", ("my pets", None)),
        ("/v2/models/pets", None),
        ("/v2/models/pets/infer/", None),
        ("/v2/models/a/b/infer", None),
        ("/v2/models//infer", None),
    ],
)
def test_a_path_names_a_model_and_a_version(path: str, model: tuple[str, str | None] | None) -> None:
    assert model_of(path) == model
