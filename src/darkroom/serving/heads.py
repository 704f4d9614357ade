"""Read path, ids, token and options of a prediction from the head of a request."""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl

from darkroom.monitoring.feedback import REQUEST_ID, SHA256
from darkroom.serving.limits import Refused

Headers = Mapping[bytes, bytes]

_OWN, _NUMBERS = token_hex(4), count()  # of this process, so that an id needs no system call
# Trace Context, W3C Recommendation: version 00 has four fields, later ones may have more.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]{0,200})?"
)
_TOP = re.compile(r"[0-9]{1,9}", re.ASCII)
# In one way only: digits that could be on either side of a point that is missing would be tried on both.
_THRESHOLD = re.compile(r"([0-9]+(\.[0-9]+)?|\.[0-9]+)(e-?[0-9]+)?", re.ASCII | re.IGNORECASE)


def path_of(scope: Mapping[str, Any], root_path: str) -> str:
    """Return the path of a request, without the host of an absolute target and without a proxy's prefix."""
    path: str = scope["path"]
    if not path.startswith("/"):
        path = re.sub(r"(?i)https?://[^/]*", "", path, count=1)
    if root_path and path.startswith(f"{root_path}/"):
        path = path.removeprefix(root_path)
    return path or "/"


def request_id(headers: Headers) -> str:
    """Return the client's X-Request-ID, or a new one if it is missing or not well-formed.

    One that looks like a sha256 is not accepted, because feedback identifies images by either.
    """
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    if given and REQUEST_ID.fullmatch(given) and not SHA256.fullmatch(given.lower()):
        return given
    return f"{_OWN}{next(_NUMBERS):08x}"


def traceparent(headers: Headers) -> bytes | None:
    """Return the client's traceparent, None if it is missing or not well-formed."""
    given = headers.get(b"traceparent")
    found = _TRACEPARENT.fullmatch(given) if given else None
    return None if found is None or (found["more"] and found[0].startswith(b"00")) else given


def declared_length(headers: Headers) -> int:
    """Return the Content-Length, 0 if there is none."""
    return int(headers.get(b"content-length", b"0"))


def check_token(headers: Headers, token: bytes) -> None:
    """Refuse a request without the token.

    Raises:
        Refused: 401.
    """
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(b" "), token):
        sentence = "a token is required; send it as `Authorization: Bearer TOKEN`"
        raise Refused(401, sentence, headers=((b"www-authenticate", b"Bearer"),))


def refuse_encoded(headers: Headers) -> None:
    """Refuse a compressed body.

    Raises:
        Refused: 415.
    """
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(415, "Content-Encoding is not supported; send the body uncompressed")


@dataclass(frozen=True)
class Shown:
    """The query parameters of a prediction.

    Attributes:
        top: maximum number of probabilities, the greatest first; None: all, in the order of the classes.
        threshold: answers below it are marked as abstained; None: the model's own.
    """

    top: int | None = None
    threshold: float | None = None

    @classmethod
    def of(cls, query: bytes) -> "Shown":
        """Parse a query string.

        Raises:
            Refused: 400, it has an unknown or repeated parameter, or a value out of range.
        """
        given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        values = dict(given)
        if unknown := sorted(values.keys() - {"top", "threshold"}):
            raise _bad(f"unknown parameter {unknown[0][:40]!a}")
        if len(values) < len(given):
            raise _bad("a parameter is given twice")
        top, threshold = values.get("top"), values.get("threshold")
        if top is not None and (not _TOP.fullmatch(top) or int(top) < 1):
            raise _bad(f"top is {top[:40]!a}")
        if threshold is not None and (not _THRESHOLD.fullmatch(threshold) or float(threshold) > 1):
            raise _bad(f"threshold is {threshold[:40]!a}")
        return cls(None if top is None else int(top), None if threshold is None else float(threshold))

    def applied(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Apply the parameters to an answer."""
        if "error" in answer:
            return answer
        more: dict[str, Any] = {}
        if self.top is not None:
            best = sorted(answer["probabilities"].items(), key=lambda one: -one[1])
            more["probabilities"] = dict(best[: self.top])
        if self.threshold is not None:
            more["abstained"] = answer["probability"] < self.threshold or answer.get("unknown", False)
        return answer | more


def _bad(what: str) -> Refused:
    known = "top (a whole number of at least 1) and threshold (from 0 to 1)"
    return Refused(400, f"{what}; the query parameters of a prediction are {known}")
