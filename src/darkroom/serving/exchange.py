"""A request and its answer, between an HTTP connection and an ASGI application."""

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

import httptools
from starlette.types import ASGIApp, Message, Scope

INVALID = b"Invalid HTTP request received."
STATUS_LINES = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Protocol):
    """The interface of a connection for an exchange; see http_server."""

    @property
    def closes(self) -> bool: ...

    @property
    def date(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    async def writable(self) -> None: ...

    def read_on(self) -> None: ...

    def answered(self, exchange: "Exchange", *, is_last: bool) -> None: ...

    def abort(self) -> None: ...


class Exchange:
    """One request and its answer, as ASGI has them.

    Attributes:
        is_complete: whether the whole request was received.
        is_begun: whether a part of the answer was written.
    """

    def __init__(self, scope: Scope, *, connection: Connection, keep_alive: bool, expects: bool) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_complete = self.is_begun = False
        self._scope = scope
        self._connection = connection
        self._keep_alive = keep_alive
        self._expects = expects
        self._body = bytearray()
        self._arrived: asyncio.Future[None] | None = None
        self._start: Message | None = None
        self._is_lost = self._is_answered = self._is_taken = False

    @classmethod
    def of(
        cls,
        parser: httptools.HttpRequestParser,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        *,
        connection: Connection,
        peer: tuple[str, int],
    ) -> "Exchange":
        """Return the exchange for the head of a request.

        Raises:
            HttpParserError: it is not HTTP/1.1 or 1.0, lacks Host or repeats it, or has another transfer encoding than
                chunked.
        """
        version = parser.get_http_version()
        of_name = dict(headers)
        n_hosts = sum(name == b"host" for name, _ in headers)
        encodings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if version not in ("1.0", "1.1") or n_hosts > 1 or encodings not in ([], [b"chunked"]):
            raise httptools.HttpParserError(INVALID.decode())
        if version == "1.1" and not n_hosts:
            raise httptools.HttpParserError(INVALID.decode())
        path, _, query = target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": version,
            "method": parser.get_method().decode(),
            "scheme": "http",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": None,
            "server": peer[:2],
        }
        keep_alive = version == "1.1" and parser.should_keep_alive()
        expects = version == "1.1" and of_name.get(b"expect", b"").lower() == b"100-continue"
        return cls(scope, connection=connection, keep_alive=keep_alive, expects=expects)

    async def run(self, app: ASGIApp) -> None:
        """Run the application; an unfinished answer ends the connection."""
        try:
            await app(self._scope, self.receive, self.send)
        finally:
            if not self._is_answered and not self._is_lost:
                self._connection.abort()

    def feed(self, body: bytes) -> int:
        """Add a piece of the body; return the number of bytes that the application has not read yet."""
        if not self._is_answered:
            self._body += body
            self._wake()
        return len(self._body)

    def complete(self) -> None:
        """Mark the body as complete."""
        self.is_complete = True
        self._wake()

    def lose(self) -> None:
        """Note that the client is gone."""
        self._is_lost = True
        if self.task:
            self.task.cancel()

    def probe(self) -> None:
        """Send an interim response, which a listening client ignores."""
        if self._scope["http_version"] == "1.1" and not self.is_begun:
            self._connection.write(CONTINUE)

    async def receive(self) -> Message:
        """Return the next piece of the body."""
        while not self._is_answered and (self._is_taken or not (self._body or self.is_complete)):
            if self._expects:
                self._expects = False
                self._connection.write(CONTINUE)
            self._connection.read_on()
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        if self._is_answered:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._is_taken = self.is_complete
        return {"type": "http.request", "body": body, "more_body": not self.is_complete}

    async def send(self, message: Message) -> None:
        """Write the head or a piece of the answer."""
        if self._is_lost:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body = b"" if self._scope["method"] == "HEAD" else message.get("body", b"")
        if self._start:
            body, self._start = self._head(self._start) + body, None
            self.is_begun = True
        self._connection.write(body)
        if not message.get("more_body"):
            self._is_answered = True
            self._wake()
            self._connection.answered(self, is_last=not self._keep_alive)
        else:
            await self._connection.writable()

    def _head(self, start: Message) -> bytes:
        headers = start["headers"]
        names = {name for name, _ in headers}
        if self._connection.closes or b"connection" in names or b"content-length" not in names:
            self._keep_alive = False
        return b"".join(self._head_parts(start["status"], headers))

    def _head_parts(self, status: int, headers: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
        yield STATUS_LINES[status]
        yield self._connection.date
        for name, value in headers:
            if name != b"connection":
                yield b"%s: %s\r\n" % (name, value)
        yield b"\r\n" if self._keep_alive else b"connection: close\r\n\r\n"

    def _wake(self) -> None:
        if self._arrived and not self._arrived.done():
            self._arrived.set_result(None)
