"""Receive a request's body within the limits, and split it into the bytes of its images."""

import asyncio
import json
import re
from typing import Any

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.types import Receive

from darkroom.deployable.items import decode_base64
from darkroom.serving.limits import Disconnected, Limits, Refused, busy

MAX_FIELDS = 16  # of a form, besides its files
WELCOME = (
    "send one image as it is (Content-Type image/* or application/octet-stream), a form with files "
    '(multipart/form-data), or JSON: {"image": BASE64} or {"images": [BASE64, ...]}'
)
LARGE = 1 << 16  # bytes; larger bodies are parsed on a thread, because they would delay other requests noticeably
_DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


class Intake:
    """Receives bodies, and limits their total size in memory.

    Args:
        fewer: what to send instead of a body that is too large.
    """

    def __init__(self, limits: Limits, *, fewer: str = "smaller or fewer images") -> None:
        self._limits = limits
        self._fewer = fewer
        self._held = 0

    async def receive(self, declared: int, receive: Receive) -> bytes:
        """Return a request's body; call `release` with its length when it is answered.

        Args:
            declared: its Content-Length, 0 if it has none.

        Raises:
            Refused: it is too large, takes too long, or exceeds the total in memory.
            Disconnected: the client is gone.
        """
        self._check(declared, held=self._held + declared)
        body = bytearray()  # not a list: a million pieces of one byte would take 50 times their size
        taken, seconds = 0, self._limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Disconnected
                    piece: bytes = message.get("body", b"")
                    taken += len(piece)
                    self._held += len(piece)
                    self._check(taken, held=self._held)
                    if not message.get("more_body"):
                        return piece if not body else bytes(body) + piece
                    body += piece
        except TimeoutError:
            self._held -= taken
            sentence = f"the body did not arrive within {seconds:g} s ({taken} bytes did); send it again"
            raise Refused(408, sentence) from None
        except BaseException:
            self._held -= taken
            raise

    def release(self, n_bytes: int) -> None:
        """Release a body of this length."""
        self._held -= n_bytes

    def _check(self, n_bytes: int, *, held: int) -> None:
        limit = self._limits.max_body_bytes
        if n_bytes > limit:
            raise Refused(413, f"the body is larger than {limit} bytes; send {self._fewer}")
        if held > self._limits.max_held_bytes:
            raise busy("the server has reached its limit of bytes held for requests")


def images_of(body: bytes, content_type: str, *, max_images: int) -> list[bytes | str]:
    """Return the image files in a body, or text with the reason in place of an unreadable one.

    Raises:
        Refused: the body is not one of the forms in WELCOME, or has no image, or more than max_images.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _files_of_form(body, content_type, max_images=max_images)
    if kind == "application/json":
        return _images_of_json(body, max_images=max_images)
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise Refused(415, f"Content-Type {kind[:100]} is not supported; {WELCOME}")
    if not body:
        raise Refused(400, f"the body is empty; {WELCOME}")
    return [body]


def _files_of_form(body: bytes, content_type: str, *, max_images: int) -> list[bytes | str]:
    images: list[bytes | str] = []
    n_fields, complete = 0, False

    def take_file(file: File) -> None:
        if len(images) == max_images:
            raise too_many(max_images)
        file.file_object.seek(0)
        images.append(file.file_object.read())

    def take_field(_field: Field) -> None:
        nonlocal n_fields
        n_fields += 1
        if n_fields > MAX_FIELDS:
            raise Refused(400, f"the form has more than {MAX_FIELDS} fields that are not files; {WELCOME}")

    def end() -> None:
        nonlocal complete
        complete = True

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise Refused(400, "the Content-Type multipart/form-data has no boundary; let your HTTP client set it")
    try:
        # Never to disk: the body is bounded, and images must not be stored unless configured.
        parser = FormParser(
            "multipart/form-data", take_field, take_file, end, boundary, config={"MAX_MEMORY_FILE_SIZE": float("inf")}
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, f"the form cannot be read: {' '.join(str(error).split())[:200]}; {WELCOME}") from None
    if not complete:
        raise Refused(400, "the form ends before its last boundary; was the upload cut off?")
    if not images:
        raise Refused(400, f"the form has no file: give each part a filename; {WELCOME}")
    return images


def _images_of_json(body: bytes, *, max_images: int) -> list[bytes | str]:
    # Base64 has no brackets and at most one comma (of a data: URI), so these counts bound the result of json.loads.
    if body.count(b"[") + body.count(b"{") > 2 or body.count(b",") > 2 * max_images:
        raise Refused(400, f"the JSON does not have the expected form, or has more than {max_images} images; {WELCOME}")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON ({' '.join(str(error).split())[:100]}); {WELCOME}") from None
    encoded: Any = None
    if isinstance(value, dict) and len(value) == 1:
        encoded = value.get("images", [value["image"]] if "image" in value else None)
    if not isinstance(encoded, list) or not encoded or not all(isinstance(text, str) for text in encoded):
        raise Refused(400, f"the JSON does not have the expected form; {WELCOME}")
    if len(encoded) > max_images:
        raise too_many(max_images)
    return [from_base64(text) for text in encoded]


def from_base64(text: str) -> bytes | str:
    """Return the file in a base64 text or data: URI, or text with the reason if there is none."""
    start = _DATA_URI.match(text)
    try:
        return decode_base64(text[start.end() if start else 0 :])
    except ValueError as error:
        return f"not base64 ({error}); expected an image file in base64, with or without the prefix data:...;base64,"


def too_many(max_images: int) -> Refused:
    """Return the refusal of a request with more than max_images."""
    images = "one image" if max_images == 1 else f"{max_images} images"
    return Refused(400, f"the request has more than {images}; send them in several requests")
