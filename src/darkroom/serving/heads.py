"""What the front takes from the head of a request: path, ids, token and the options of a prediction."""

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

_OWN, _NUMBERS = token_hex(4), count()  # of this process: an id of our own costs no call of the system
# Trace Context, W3C Recommendation: version 00 has four fields, a later one may have more behind them.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]{0,200})?"
)
_TOP = re.compile(r"[0-9]{1,9}", re.ASCII)
# In one way only: digits that could be on either side of a point that is missing would be tried on both.
_THRESHOLD = re.compile(r"([0-9]+(\.[0-9]+)?|\.[0-9]+)(e-?[0-9]+)?", re.ASCII | re.IGNORECASE)


def path_of(scope: Mapping[str, Any], root_path: str) -> str:
    """Return the path of a request from /, whether its target is absolute and whether a proxy left the prefix on it."""
    path: str = scope["path"]
    if not path.startswith("/"):
        path = re.sub(r"(?i)https?://[^/]*", "", path, count=1)
    if root_path and path.startswith(f"{root_path}/"):
        path = path.removeprefix(root_path)
    return path or "/"


def request_id(headers: Headers) -> str:
    """Return the client's X-Request-ID, or one of our own where that is missing or not well-formed.

    One that looks like the sha256 of an image is not: feedback names images by either.
    """
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    if given and REQUEST_ID.fullmatch(given) and not SHA256.fullmatch(given.lower()):
        return given
    return f"{_OWN}{next(_NUMBERS):08x}"


def traceparent(headers: Headers) -> bytes | None:
    """Return the client's traceparent, None where that is missing or not well-formed."""
    given = headers.get(b"traceparent")
    found = _TRACEPARENT.fullmatch(given) if given else None
    return None if found is None or (found["more"] and found[0].startswith(b"00")) else given


def declared_length(headers: Headers) -> int:
    """Return the Content-Length, 0 where there is none."""
    return int(headers.get(b"content-length", b"0"))


def check_token(headers: Headers, token: bytes) -> None:
    """Refuse a request that does not bring the token.

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
    """What a request asks to be told of each prediction.

    Attributes:
        top: only so many probabilities, the greatest first; None: all, in the order of the classes.
        threshold: below it an answer is marked as abstained; None: as the model has it.
    """

    top: int | None = None
    threshold: float | None = None

    @classmethod
    def of(cls, query: bytes) -> "Shown":
        """Return what a query string asks for.

        Raises:
            Refused: 400, it has another parameter, one of them twice, or a value out of range.
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
        """Return an answer as it was asked for."""
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
