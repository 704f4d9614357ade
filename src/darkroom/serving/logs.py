"""The server's log on stderr: one JSON object per line, including lines of libraries, without blocking."""

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any

MAX_LINES = 10_000  # that wait for a reader; further ones are dropped and counted
LAST_SECONDS = 1.0  # for the lines that wait when the server ends

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # kept: json.dumps with an option builds one for every call


def log(event: str, message: str | None = None, **more: Any) -> None:
    """Write one line {time, event, message, ...}; message is a sentence for a person.

    A line that cannot be written, because the disk is full or stderr is closed, is lost without an error.
    """
    line = _line(event, message, **more)
    if _lines:
        _lines.put(line)
    else:
        with suppress(OSError, ValueError):
            sys.stderr.write(line)  # one write: threads do not mix their lines
            sys.stderr.flush()


@contextmanager
def never_waiting() -> Iterator[None]:
    """Write lines to stderr from a thread, and convert what libraries log or print there.

    Otherwise a pipe that nobody reads, or a stopped terminal, would block the whole server.
    """
    global _lines
    handler, stderr = _Handler(logging.WARNING), sys.stderr
    _lines = _Lines(stderr.fileno())
    logging.getLogger().addHandler(handler)
    sys.stderr = _Printed()
    try:
        yield
    finally:
        sys.stderr = stderr
        logging.getLogger().removeHandler(handler)
        lines, _lines = _lines, None
        lines.close()


class _Lines:
    """A queue of lines for a descriptor of its own, so that a blocked thread holds no lock of sys.stderr."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._n_dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        if self._queue.qsize() < MAX_LINES:
            self._queue.put(line)
        else:
            self._n_dropped += 1

    def close(self) -> None:
        """Wait at most LAST_SECONDS for the queued lines."""
        self._queue.put(None)
        self._thread.join(LAST_SECONDS)

    def _run(self) -> None:
        line: str | None = ""
        while line is not None:
            line = self._queue.get()
            taken = [line or ""]
            with suppress(Empty):
                while line is not None:
                    line = self._queue.get_nowait()
                    taken.append(line or "")
            if self._n_dropped:
                n, self._n_dropped = self._n_dropped, 0
                message = f"nobody read this log for a while; {n} lines were dropped from it"
                taken.append(_line("log_lines_dropped", message, n_lines=n))
            self._write("".join(taken).encode("utf-8", "backslashreplace"))
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]


_lines: _Lines | None = None


class _Handler(logging.Handler):
    """Converts log records of libraries to lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = " ".join(record.getMessage().split())
        except Exception:  # a mistake in a library's log call
            message = " ".join(str(record.msg).split())
        more = {"traceback": logging.Formatter().formatException(record.exc_info)} if record.exc_info else {}
        log("library", message, logger=record.name, level=record.levelname.lower(), **more)


class _Printed(io.TextIOBase):
    """Converts text printed to sys.stderr (warnings of Python, tracebacks of threads) to lines."""

    _rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, map(str.rstrip, lines)):
            log("printed", line)
        return len(text)


def _line(event: str, message: str | None = None, **more: Any) -> str:
    line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    if message is not None:
        line["message"] = message
    return _ENCODER.encode(line | more) + "\n"
