"""`python -m benchmarks.peers.http_servers NAME PORT` serves a fixed answer with an HTTP server, in one process.

NAME is darkroom (the HTTP server of `darkroom serve`, without the classifier), uvicorn_h11, uvicorn_httptools or
granian. All run the same ASGI application on uvloop, without a log.
"""

import asyncio
import json
import sys
from typing import Any

CLASSES = [f"class{number}" for number in range(10)]
PREDICTION = {
    "label": "class0",
    "probability": 0.91,
    "probabilities": dict.fromkeys(CLASSES, 0.009),
    "abstained": False,
}
ANSWER = json.dumps({"request_id": "0" * 16, "model": "m", "version": "1", "predictions": [PREDICTION]}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body whole, and send ANSWER."""
    if scope["type"] != "http":
        return
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


def darkroom(port: int) -> None:
    """Serve as `darkroom serve` does."""
    from socket import SO_REUSEADDR, SOL_SOCKET, socket

    import uvloop

    from darkroom.serving.http_server import HttpServer

    async def serve() -> None:
        bound = socket()
        bound.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        http = HttpServer(idle_seconds=75)
        http.app = app
        listening = await http.listen(bound, backlog=2048)
        await http.serve(listening, stop=asyncio.Event(), drain_seconds=0, grace_seconds=0)

    uvloop.run(serve())


def uvicorn(port: int, *, parser: str) -> None:
    """Serve with uvicorn and one of its parsers."""
    import uvicorn

    uvicorn.run(app, port=port, http=parser, loop="uvloop", lifespan="off", access_log=False, log_level="error")


def granian(port: int) -> None:
    """Serve with Granian, which has threads in Rust besides that of Python."""
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops

    Granian(
        "benchmarks.peers.http_servers:app",
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        websockets=False,
        log_enabled=False,
    ).serve()


if __name__ == "__main__":
    name, port = sys.argv[1], int(sys.argv[2])
    if name.startswith("uvicorn_"):
        uvicorn(port, parser=name.removeprefix("uvicorn_"))
    else:
        {"darkroom": darkroom, "granian": granian}[name](port)
