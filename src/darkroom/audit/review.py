"""The page on which a person decides about images, one by one; it is served to this machine only."""

import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.middleware.trustedhost import TrustedHostMiddleware

from darkroom.audit.findings import KINDS
from darkroom.audit.report import encoded
from darkroom.audit.run import Audit
from darkroom.errors import DarkroomError

STATIC = Path(__file__).parent / "static"
ASSETS = {"review.css": "text/css", "review.js": "text/javascript"}
HOSTS = ["127.0.0.1", "localhost", "[::1]"]  # other names would allow DNS rebinding by pages of other sites
MOST = 5000  # findings that are sent to the page
SIDE = 640  # pixels of an image on the page
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Decision(BaseModel):
    """A decision as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    row: int
    new: str


class Deciding(Protocol):
    """A store of decisions: decisions.Decisions or incoming.Incoming."""

    @property
    def made(self) -> list[int]:
        """The rows with a decision, in order."""

    def decide(self, row: int, new: str) -> None:
        """Give an image a label."""

    def undo(self) -> int | None:
        """Undo the last decision and return its row."""


class Shown(NamedTuple):
    """The content of the page.

    Attributes:
        classes: the possible labels.
        cards: one per image, in the order in which they are shown: row, kind, why, label (None: it has none yet),
            suggested, source, split, beside (row and label of other images).
        image: returns the image of a row, uint8 (H, W, C); raises IndexError or ValueError if there is none.
        then: what to do after the last decision.
    """

    classes: list[str]
    cards: list[dict[str, Any]]
    image: Callable[[int], np.ndarray]
    then: str


def build_app(shown: Shown, decisions: Deciding, *, secret: str) -> FastAPI:
    """Return the application.

    Args:
        shown: the content of the page.
        decisions: where decisions are stored.
        secret: required in every request. It is in the fragment of the address that the command prints, so neither
            other users of the machine nor pages of other sites learn it.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)

    def check(given: str) -> None:
        if not secrets.compare_digest(given.encode(), secret.encode()):
            said = "this address has no secret, or that of an earlier review; open the one that the command printed"
            raise HTTPException(403, said)

    def by_header(request: Request) -> None:
        check(request.headers.get("X-Review", ""))

    known = [Depends(by_header)]

    @app.exception_handler(DarkroomError)
    async def refused(_: Request, error: DarkroomError) -> Response:
        return Response(str(error), 400, media_type="text/plain")

    @app.get("/findings", dependencies=known)
    def listed(response: Response) -> dict[str, Any]:
        response.headers.update(HEADERS)
        return {"classes": shown.classes, "findings": shown.cards, "made": decisions.made, "then": shown.then}

    @app.get("/images/{row}")
    def image(row: int, secret: str = "") -> Response:
        check(secret)  # an <img> sends no header
        try:
            content, media_type = encoded(shown.image(row), side=SIDE)
        except (IndexError, ValueError):  # a file that was moved away meanwhile
            raise HTTPException(404, f"image {row} does not exist") from None
        return Response(content, media_type=media_type, headers={**HEADERS, "Cache-Control": "max-age=600"})

    @app.post("/decisions", dependencies=known)
    def decide(decision: Decision) -> dict[str, list[int]]:
        decisions.decide(decision.row, decision.new)
        return {"made": decisions.made}

    @app.post("/undo", dependencies=known)
    def undo() -> dict[str, Any]:
        return {"row": decisions.undo(), "made": decisions.made}

    for path, name, media_type in [("/", "review.html", "text/html"), *((f"/{n}", n, t) for n, t in ASSETS.items())]:
        app.get(path)(_file(STATIC / name, media_type))
    return app


def findings(audit: Audit, *, then: str) -> Shown:
    """Return the findings as the content of the page, one per image, the worst first.

    Args:
        then: see Shown.
    """
    index, classes, labels = audit.dataset.index(), audit.dataset.classes, audit.dataset.labels
    sources, splits = index["source"].tolist(), index["split"].tolist()
    cards: dict[int, dict[str, Any]] = {}
    for one in audit.found:
        if one.row in cards or len(cards) == MOST:
            continue
        beside = [{"row": row, "label": classes[labels[row]]} for row in one.beside]
        cards[one.row] = {
            "row": one.row,
            "kind": one.kind,
            "why": KINDS[one.kind],
            "label": classes[labels[one.row]],
            "suggested": None if one.suggested is None else classes[one.suggested],
            "source": sources[one.row],
            "split": splits[one.row],
            "beside": beside,
        }
    return Shown(classes, list(cards.values()), audit.dataset.images.__getitem__, then)


def _file(path: Path, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = path.read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return answer


def server(shown: Shown, decisions: Deciding, *, secret: str) -> uvicorn.Server:
    """Return the server of the page for `serve`; set its should_exit to end it."""
    app = build_app(shown, decisions, secret=secret)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))


def serve(server: uvicorn.Server, *, port: int, secret: str, said: Callable[[str], None]) -> None:
    """Serve the page on this machine until Ctrl-C.

    Args:
        port: 0: any free one.
        secret: the server's.
        said: called with a line that has the address.

    Raises:
        DarkroomError: the port is taken.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise DarkroomError(
                f"port {port} cannot be used ({error.strerror}); pass another one with --port"
            ) from None
        said(f"review at http://127.0.0.1:{listening.getsockname()[1]}/#{secret} (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended
            server.run(sockets=[listening])
