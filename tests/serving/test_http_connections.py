"""What the HTTP server does with one connection, whatever the application is."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from starlette.types import Receive, Scope, Send

from darkroom.serving.http_server import HttpServer

LARGE = 200_000


class Application:
    """Answers with the path and the size of the body; /large with much; /slow only after a minute."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, n_bytes, more = scope["path"], 0, True
        self.asked.append(path)
        try:
            while more:
                message = await receive()
                n_bytes, more = n_bytes + len(message["body"]), message["more_body"]
            if path == "/slow":
                await asyncio.sleep(60)
            if path == "/gone":
                await receive()  # until the client has left
        except asyncio.CancelledError:
            self.cancelled.append(path)
            raise
        content = bytes(LARGE) if path == "/large" else f"{path} {n_bytes};".encode()
        headers = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def served(idle_seconds: float = 60.0) -> AsyncIterator[tuple[HttpServer, Application, int]]:
    http, application, stop = HttpServer(idle_seconds=idle_seconds), Application(), asyncio.Event()
    http.app = application
    bound = socket.create_server(("127.0.0.1", 0))
    listening = await http.listen(bound, backlog=10)
    serving = asyncio.create_task(http.serve(listening, stop=stop, drain_seconds=0, grace_seconds=0))
    try:
        yield http, application, bound.getsockname()[1]
    finally:
        stop.set()
        await serving


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


async def asked(port: int, data: bytes) -> bytes:
    """Return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_client_that_reads_nothing_is_not_held_and_dropped() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()

        async def ask_on(client: socket.socket) -> None:
            with suppress(OSError):
                while True:
                    await loop.sock_sendall(client, get("/large"))
                    await asyncio.sleep(0.01)

        async with served(idle_seconds=1) as (http, application, port):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", port))
                asking = asyncio.create_task(ask_on(client))
                await until(lambda: application.asked)
                await until(lambda: not http.connections)
                asking.cancel()
            assert len(application.asked) * LARGE < 20_000_000

    run(test)


def test_what_came_before_broken_input_is_answered() -> None:
    async def test() -> None:
        async with served() as (_, application, port):
            answer = await asked(port, get("/a") + get("/b") + b"\x16\x03garbage\r\n\r\n")
            assert [line.split()[1] for line in answer.split(b"HTTP/1.1")[1:] if line] == [b"OK", b"OK", b"Bad"]
            assert (answer.count(b"connection: close"), application.asked) == (1, ["/a", "/b"])

    run(test)


def test_the_refusal_of_a_long_head_can_be_read() -> None:
    async def test() -> None:
        async with served() as (_, _application, port):
            answer = await asked(port, get("/a", f"A: {'x' * 150_000}\r\n"))
            assert answer.startswith(b"HTTP/1.1 400 ")

    run(test)


def test_many_offers_to_upgrade_in_one_piece_are_answered() -> None:
    async def test() -> None:
        async with served() as (_, _application, port):
            offer = get("/u", "Connection: Upgrade\r\nUpgrade: x\r\n")
            old = b"GET /old HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
            answer = await asked(port, 600 * offer + old)
            assert (answer.count(b"HTTP/1.1 200 OK"), answer.count(b"/old 0;")) == (601, 1)

    run(test)


def test_a_client_that_leaves_is_noticed_whatever_the_body() -> None:
    async def test() -> None:
        async with served() as (_, application, port):
            for n_bytes in (10, 200_000):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(get("/slow", f"Content-Length: {n_bytes}\r\n") + bytes(n_bytes))
                await writer.drain()
                await asyncio.sleep(0.1)
                writer.transport.abort()
                await until(lambda: application.cancelled)
                application.cancelled.clear()

    run(test)


def test_an_application_can_wait_for_its_client_to_leave() -> None:
    async def test() -> None:
        async with served() as (_, application, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get("/gone"))
            await until(lambda: application.asked)
            writer.transport.abort()
            await until(lambda: application.cancelled)

    run(test)
