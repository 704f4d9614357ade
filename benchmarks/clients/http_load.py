"""A closed-loop HTTP client: every connection sends one request after the other and waits for each answer.

    python -m benchmarks.clients.http_load < plan.json

The plan is {host, port, connections, seconds, warm_up_seconds, pause_seconds, requests}; `requests` are whole HTTP/1.1
requests in base64, which the connections send in turn, with a pause after each answer if there is to be one. Bytes are
prepared and answers hardly looked at, so that on a small machine the client leaves the processor to the server: it is
good for 15,000 answers per second and core. A process of its own, so that it shares no interpreter lock with what it
measures. A connection that the server ends counts as an error and is opened again.
"""

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MOST_ERRORS = 1000


def request(path: str, body: bytes, content_type: str) -> bytes:
    """Return a whole POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def measure(
    port: int, requests: list[bytes], *, connections: int, seconds: float, warm_up: float, pause: float = 0.0
) -> dict[str, Any]:
    """Return requests per second, latencies in ms and errors, measured from a process of its own.

    The errors are the answers with a status of 500 and above, as the Unix time and the status, and the connections that
    the server ended before an answer, as the time and 0; the first thousand of them.
    """
    plan = {"port": port, "connections": connections, "seconds": seconds, "warm_up_seconds": warm_up}
    plan["pause_seconds"] = pause
    text = json.dumps({**plan, "host": "127.0.0.1", "requests": [base64.b64encode(one).decode() for one in requests]})
    command = [sys.executable, "-m", "benchmarks.clients.http_load"]
    ended = subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


class Connection(asyncio.Protocol):
    """One connection in its loop; what it saw is in `load`."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = bytearray()
        self._needed = 0  # bytes of the answer being read; 0: its head is not complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            self._needed = end + 4 + int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
        if len(self._buffer) >= self._needed:
            self._load.answered(self._started, int(self._buffer[9:12]))
            del self._buffer[: self._needed]
            self._needed = 0
            self._load.when_paused(self._next)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._load.closed()

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        if self._load.running:
            self._send()
        else:
            self._transport.close()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._load.next_request())  # type: ignore[attr-defined]


class Load:
    """All connections of one measurement."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._requests = [base64.b64decode(text) for text in plan["requests"]]
        self._turn = count()
        self._latencies: list[float] = []
        self._statuses: dict[int, int] = {}
        self._lost = 0
        self._errors: list[tuple[float, int]] = []
        self._tasks = set[asyncio.Task[None]]()
        self.running = True

    async def run(self) -> dict[str, Any]:
        """Send for the warm-up and then for the measured seconds; return what was measured."""
        loop, plan = asyncio.get_running_loop(), self._plan
        self._done = loop.create_future()
        self._open = plan["connections"]
        self._from = time.perf_counter() + plan["warm_up_seconds"]
        self._until = self._from + plan["seconds"]
        loop.call_later(plan["warm_up_seconds"] + plan["seconds"], self._stop)
        for _ in range(plan["connections"]):
            await self._connect()
        await self._done
        ordered = sorted(self._latencies)
        return {
            "requests_per_second": round(len(ordered) / plan["seconds"], 1),
            "p50_ms": quantile(ordered, 0.50),
            "p95_ms": quantile(ordered, 0.95),
            "p99_ms": quantile(ordered, 0.99),
            "max_ms": quantile(ordered, 1.0),
            "n_requests": len(ordered),
            "n_errors": sum(n for status, n in self._statuses.items() if status != 200) + self._lost,
            "n_lost": self._lost,
            "statuses": {str(status): n for status, n in sorted(self._statuses.items())},
            "errors": self._errors,
        }

    async def _connect(self) -> None:
        place = self._plan["host"], self._plan["port"]
        await asyncio.get_running_loop().create_connection(lambda: Connection(self), *place)

    def when_paused(self, proceed: Callable[[], None]) -> None:
        """Call a function after the pause that the plan asks for."""
        if pause := self._plan["pause_seconds"]:
            asyncio.get_running_loop().call_later(pause, proceed)
        else:
            proceed()

    def next_request(self) -> bytes:
        return self._requests[next(self._turn) % len(self._requests)]

    def answered(self, started: float, status: int) -> None:
        now = time.perf_counter()
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if status >= 500:
            self._failed(status)
        if self._from <= now <= self._until:
            self._latencies.append((now - started) * 1000)

    def closed(self) -> None:
        if self.running:  # the server ended it
            self._lost += 1
            self._failed(0)
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._connected)
            return
        self._open -= 1
        if not self._open:
            self._done.set_result(None)

    def _connected(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if (error := task.exception()) and not self._done.done():
            self._done.set_exception(error)  # nobody listens any more

    def _failed(self, status: int) -> None:
        if len(self._errors) < MOST_ERRORS:
            self._errors.append((round(time.time(), 3), status))

    def _stop(self) -> None:
        self.running = False


def quantile(ordered: list[float], share: float) -> float | None:
    """Return the value below which `share` of the sorted values lie, None without values."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def main() -> None:
    """Read the plan from stdin and write the result to stdout, both JSON."""
    print(json.dumps(asyncio.run(Load(json.load(sys.stdin)).run())))


if __name__ == "__main__":
    main()
