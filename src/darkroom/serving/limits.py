"""The limits of a request, and the errors for refused requests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what one request, and all of them together, may take of the machine.

    Attributes:
        max_body_bytes: of one request; what comes after is not read.
        max_held_bytes: of all bodies that are being received or answered.
        max_pixels: height x width of an encoded image; a larger one is not decoded.
        max_images: of one request.
        max_waiting: images that are accepted and not answered yet, of all requests; at least max_images.
        max_batch: images that the network is given at once.
        head_seconds: from connecting, or from the last answer, until the next request's head is there.
        body_seconds: from the head of a request until its body is there.
    """

    max_body_bytes: int = 16 << 20
    max_held_bytes: int = 256 << 20
    max_pixels: int = 50_000_000
    max_images: int = 64
    max_waiting: int = 256
    max_batch: int = 16
    head_seconds: float = 75.0
    body_seconds: float = 30.0


class Refused(Exception):  # noqa: N818 - an answer, not a failure of the server
    """A request is answered with this status and one sentence.

    Args:
        close: whether the connection ends with the answer, because the rest of the request is not read.
    """

    def __init__(
        self, status: int, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = (), close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.close = close


def busy(message: str, *, close: bool = False) -> Refused:
    """Return the refusal of a request that would be welcome a little later."""
    return Refused(503, f"{message}; try again in a second", headers=((b"retry-after", b"1"),), close=close)


class Disconnected(Exception):  # noqa: N818 - nobody is left to be told
    """The client went away before its request was complete."""
