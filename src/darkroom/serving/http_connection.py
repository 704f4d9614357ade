"""One connection to the HTTP server: its requests are parsed, answered one after the other, and limited."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Protocol, cast

import httptools
from starlette.types import ASGIApp

from darkroom.serving.exchange import INVALID, STATUS_LINES, Exchange

MAX_HEAD_BYTES = 1 << 16  # of a request, also for the framing of a chunked body
MAX_HELD_BYTES = 1 << 16  # of a body that the application has not read yet
LINGER_SECONDS = 2.0  # of reading on after the last answer, so that a client that still sends can read it
LINGER_BYTES = 1 << 20
PROBE_SECONDS = 0.05  # between the first two checks whether a client that closed its side is gone


class Server(Protocol):
    """What a connection needs from its server; see http_server.HttpServer."""

    app: ASGIApp
    is_draining: bool
    connections: "set[HttpConnection]"
    tasks: set[asyncio.Task[None]]
    date: bytes


class HttpConnection(asyncio.Protocol):
    """One connection. Pipelined requests wait for the previous answer, and nothing more is read meanwhile."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._exchange: Exchange | None = None  # the one being received
        self._unanswered: deque[Exchange] = deque()  # the first one is being answered
        self._parser = httptools.HttpRequestParser(self)
        self._n_beside = 0  # bytes outside a body, since the last request was complete
        self._n_body = self._n_passed_over = 0
        self._since = time.monotonic()  # when it began to wait for the client
        self._is_ending = self._is_broken = self._is_half_closed = False
        self._can_write = asyncio.Event()
        self._can_write.set()

    # From the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._server.connections.discard(self)
        self._is_ending = True
        self._can_write.set()
        for exchange in self._unanswered:
            exchange.lose()
        self._unanswered.clear()

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            self._n_passed_over += len(data)
            if self._n_passed_over > LINGER_BYTES:
                self._transport.abort()
        rest = memoryview(data)
        while rest and not (self._is_ending or self._is_broken):
            self._n_beside += len(rest)
            try:
                rest = self._parse(rest)
            except httptools.HttpParserError:
                self._refuse()
            if self._n_beside > MAX_HEAD_BYTES + 8 * self._n_body:  # a chunk of one byte has five beside it
                self._refuse()

    def eof_received(self) -> bool:
        if self._unanswered and not self._exchange and not self._is_ending:
            self._is_half_closed = True  # it may wait for its answer, or be gone
            self._probe()
            asyncio.get_running_loop().call_later(PROBE_SECONDS, self._probe)
            return True
        return False

    def pause_writing(self) -> None:
        self._since = time.monotonic()
        self._can_write.clear()
        if not self._unanswered and not self._is_ending:
            self._transport.pause_reading()  # else `answered` does

    def resume_writing(self) -> None:
        self._can_write.set()
        self._go_on()

    # From the parser

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._exchange:  # otherwise it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        exchange = Exchange.of(
            self._parser, self._target, self._headers, connection=self, peer=self._transport.get_extra_info("sockname")
        )
        self._exchange = exchange
        self._unanswered.append(exchange)
        if len(self._unanswered) == 1:
            self._start(exchange)
        else:
            self._transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._n_beside -= len(body)
        self._n_body += len(body)
        if self._exchange and self._exchange.feed(body) > MAX_HELD_BYTES:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._exchange:
            self._exchange.complete()
            self._exchange = None
            self._n_beside = self._n_body = 0
            self.read_on()  # so that it is seen when the client leaves

    # From exchanges and the server

    @property
    def closes(self) -> bool:
        """Whether the next answer is the last one."""
        return self._server.is_draining or self._is_half_closed or self._exchange is self._unanswered[0]

    @property
    def date(self) -> bytes:
        """The header with the time."""
        return self._server.date

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    async def writable(self) -> None:
        """Wait until the client has read most of the written bytes."""
        await self._can_write.wait()

    def read_on(self) -> None:
        """Read more of a body."""
        if len(self._unanswered) == 1 and not self._is_ending:
            self._transport.resume_reading()

    def answered(self, exchange: "Exchange", *, is_last: bool) -> None:
        """Continue after a complete answer."""
        self._unanswered.popleft()
        self._since = time.monotonic()
        if is_last:
            self._end(at_once=exchange.is_complete and not self._unanswered and not self._is_broken)
        elif self._is_broken and not self._unanswered:
            self._say_invalid()
        else:
            self._go_on()

    def close_if_idle(self) -> None:
        """Close the connection, if no request is on it."""
        if not self._unanswered:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def look(self, idle_since: float) -> None:
        """Close or drop a connection that has waited for its client since before `idle_since`."""
        self._probe()
        if self._since > idle_since:
            return
        if self._transport.is_closing() or not self._can_write.is_set():
            self._transport.abort()
        elif not self._unanswered:
            self._since = time.monotonic()  # for the last bytes to be read
            self._transport.close()

    def _probe(self) -> None:
        """Check whether a client that closed its side still listens.

        Sending to a client that is gone is answered with a reset, and the next write fails.
        """
        if self._is_half_closed and self._unanswered:
            self._unanswered[0].probe()

    def _start(self, exchange: "Exchange") -> None:
        exchange.task = asyncio.ensure_future(exchange.run(self._server.app))
        self._server.tasks.add(exchange.task)
        exchange.task.add_done_callback(self._server.tasks.discard)

    def _go_on(self) -> None:
        """Start the next request, or read on."""
        if self._is_ending:
            return
        if not self._can_write.is_set():
            self._transport.pause_reading()  # until the client reads, because its answers are buffered meanwhile
        elif not self._unanswered:
            self._transport.resume_reading()
        elif self._unanswered[0].task is None:
            self._start(self._unanswered[0])

    def _parse(self, data: memoryview) -> memoryview:
        """Parse data, and return the rest after an upgrade request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade()
            return data[upgrade.args[0] :]
        return data[:0]

    def _decline_upgrade(self) -> None:
        """Continue as if the client had not offered another protocol, whose data the parser does not read.

        Raises:
            HttpParserError: the request cannot be answered without the upgrade.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError(INVALID.decode())
        headers = [(name, value) for name, value in self._headers if name != b"upgrade"]
        line = b"%s %s HTTP/%s\r\n" % (method, self._target, version)
        head = line + b"".join(b"%s: %s\r\n" % one for one in headers) + b"\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self._n_beside = len(head)
        self._parser.feed_data(head)

    def _refuse(self) -> None:
        """Answer invalid HTTP with an error, after the answers to earlier requests."""
        if self._is_broken or self._is_ending:
            return
        self._is_broken = True
        if self._exchange and not self._exchange.is_begun:
            self._exchange.lose()  # its body is invalid
            self._unanswered.pop()
            self._exchange = None
        if not self._unanswered:
            self._say_invalid()

    def _say_invalid(self) -> None:
        more = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        self.write(STATUS_LINES[400] + more + b"content-length: %d\r\n\r\n" % len(INVALID) + INVALID)
        self._end(at_once=False)

    def _end(self, *, at_once: bool) -> None:
        self._is_ending = True
        self._since = time.monotonic()
        if at_once:
            self._transport.close()
            return
        # If a socket is closed while bytes arrive, it is reset, and the client may lose the answer.
        with suppress(OSError, RuntimeError):
            self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)
