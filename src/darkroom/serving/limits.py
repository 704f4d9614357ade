"""The limits of a request, and the errors for refused requests."""

from collections.abc import Callable
from dataclasses import dataclass

Log = Callable[..., None]  # called with (event, message, **more); it does not raise
Unready = Callable[[], str | None]  # why the server should get no requests now


@dataclass(frozen=True)
class Limits:
    """Limits on the resources of one request, and of all together.

    Attributes:
        max_body_bytes: of one request; the rest is not read.
        max_held_bytes: of all bodies that are being received or answered.
        max_pixels: height x width of an encoded image; a larger one is not decoded.
        max_images: of one request.
        max_waiting: accepted and unanswered images of all requests; at least max_images.
        max_batch: images per inference.
        head_seconds: from connecting, or from the last answer, until the next request's head has arrived.
        body_seconds: from the head of a request until its body has arrived.
        request_seconds: from then on until its images are answered; also the processor time of an explanation.
        image_seconds: processor time of an image, or of small ones that a worker gets together.
        worker_bytes: that a worker may allocate after its version is loaded.
        ready_seconds: maximum wait of the oldest image for a worker while the server is ready.
    """

    max_body_bytes: int = 16 << 20
    max_held_bytes: int = 256 << 20
    max_pixels: int = 50_000_000
    max_images: int = 64
    max_waiting: int = 256
    max_batch: int = 16
    head_seconds: float = 75.0
    body_seconds: float = 30.0
    request_seconds: float = 30.0
    image_seconds: float = 10.0
    worker_bytes: int = 2 << 30
    ready_seconds: float = 5.0


class Refused(Exception):  # noqa: N818 - an answer, not a failure of the server
    """A request is answered with this status and one sentence."""

    def __init__(self, status: int, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def busy(message: str, *, advice: str = "try again in a second") -> Refused:
    """Return the refusal of a request that the client should repeat later."""
    return Refused(503, f"{message}; {advice}", headers=((b"retry-after", b"1"),))


class Disconnected(Exception):  # noqa: N818 - nobody is left to be told
    """The client went away before its request was complete."""
