"""HTTP/1.1 for an ASGI application, on llhttp's strict parser, with limits on the resources of a client.

With this parser uvicorn does not limit heads, loses the body of a request that offers an upgrade, and at its end closes
connections whose clients are about to send; Granian takes more processor time (docs/decisions.md).
"""

import asyncio
import time
from email.utils import formatdate
from socket import socket

from starlette.types import ASGIApp

from darkroom.serving.http_connection import HttpConnection

SWEEP_SECONDS = 1.0  # between two checks of idle connections


class HttpServer:
    """Connections of clients, and their requests. Set its app before it listens.

    Args:
        idle_seconds: from connecting, or from the last answer, until the next request's head has arrived; also for
            reading an answer.
    """

    app: ASGIApp

    def __init__(self, *, idle_seconds: float) -> None:
        self.is_draining = False
        self.connections: set[HttpConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.date = b""
        self._idle_seconds = idle_seconds

    async def listen(self, bound: socket, *, backlog: int) -> asyncio.Server:
        """Start listening.

        Raises:
            OSError: another process listens there.
        """
        self._look()
        return await asyncio.get_running_loop().create_server(lambda: HttpConnection(self), sock=bound, backlog=backlog)

    async def serve(
        self, server: asyncio.Server, *, stop: asyncio.Event, drain_seconds: float, grace_seconds: float
    ) -> None:
        """Answer until `stop`, and then until no client is connected.

        After `stop` every answer is the last one of its connection, also for new clients. After drain_seconds idle
        connections are closed, and after grace_seconds requests in flight are aborted.
        """
        sweeping = asyncio.ensure_future(self._sweep())
        try:
            await stop.wait()
            self.is_draining = True
            await self._emptied(drain_seconds)
            server.close()
            for connection in list(self.connections):
                connection.close_if_idle()
            await self._emptied(grace_seconds)
        finally:
            server.close()
            sweeping.cancel()
            for connection in list(self.connections):
                connection.abort()
            if self.tasks:
                await asyncio.wait(self.tasks, timeout=1.0)

    async def _emptied(self, seconds: float) -> None:
        """Wait until no client is connected, at most `seconds`."""
        until = time.monotonic() + seconds
        while self.connections and time.monotonic() < until:
            await asyncio.sleep(0.02)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._look()

    def _look(self) -> None:
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self.connections):
            connection.look(time.monotonic() - self._idle_seconds)
