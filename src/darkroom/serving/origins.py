"""Allow pages of other origins to send requests (CORS)."""

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from darkroom.serving.open_inference import N_JSON

_ORIGIN = re.compile(r"\*|https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?", re.ASCII)


def is_origin(text: str) -> bool:
    """Return whether a text is an origin as sent by browsers (https://shop.example, http://localhost:3000), or *."""
    return _ORIGIN.fullmatch(text) is not None


def opened_to(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return the application with the headers that allow these origins to send requests and read answers."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["Authorization", "Content-Type", N_JSON.decode(), "X-Request-ID", "traceparent"],
        expose_headers=[N_JSON.decode(), "X-Request-ID", "traceparent", "Retry-After"],
    )
