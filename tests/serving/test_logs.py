"""The log on stderr: every line is JSON, and writing never waits for a reader."""

import fcntl
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from darkroom.serving import logs
from tests.support.served import Server, eventually, served_repository


@contextmanager
def small_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make stderr a pipe of one page, and yield the end to read."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield reader


def lines_of(reader: int) -> list[dict[str, Any]]:
    """Return what was written to a pipe, to its end."""
    with os.fdopen(reader) as stream:
        return [json.loads(line) for line in stream]


def test_lines_of_libraries_are_json_as_ours_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_pipe(monkeypatch) as reader:
        with logs.never_waiting():
            logs.log("ours", "a sentence", number=1)
            try:
                raise ValueError("bad")
            except ValueError:
                logging.getLogger("asyncio").exception("Task exception\nwas never retrieved")
            logging.getLogger("starlette").warning("Invalid %s", "request")
            logs._Handler().handle(logging.makeLogRecord({"name": "broken", "msg": "only %s", "args": ("a", "b")}))
            logging.getLogger("quiet").info("nobody asked")
            print("half a line", end="", file=sys.stderr)
            print(" and its end", file=sys.stderr)
        logs.log("after")
    ours, task, invalid, broken, printed, after = lines_of(reader)
    assert (ours["event"], ours["message"], ours["number"]) == ("ours", "a sentence", 1)
    assert (task["event"], task["logger"], task["level"]) == ("library", "asyncio", "error")
    assert task["message"] == "Task exception was never retrieved"
    assert "ValueError: bad" in task["traceback"]
    assert (invalid["logger"], invalid["message"]) == ("starlette", "Invalid request")
    assert broken["message"] == "only %s"
    assert (printed["event"], printed["message"]) == ("printed", "half a line and its end")
    assert after["event"] == "after"


def test_lines_that_nobody_reads_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LINES", 10)
    with small_pipe(monkeypatch) as reader, ThreadPoolExecutor(1) as pool:
        with logs.never_waiting():
            for number in range(500):
                logs.log("number", "x" * 100, number=number)
            reading = pool.submit(lines_of, reader)
            eventually(lambda: logs._lines and not logs._lines._n_dropped)
        sys.stderr.close()
        lines = reading.result()
    numbers = [line["number"] for line in lines if line["event"] == "number"]
    n_dropped = sum(line["n_lines"] for line in lines if line["event"] == "log_lines_dropped")
    assert numbers == sorted(numbers)
    assert (len(numbers) + n_dropped, n_dropped > 400) == (500, True)


class Unread(Server):
    """A server whose stderr is read up to the line that says where it listens, and on when it is let go."""

    def _read(self) -> None:
        self.may_read = threading.Event()
        assert self.process.stderr
        fcntl.fcntl(self.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        for line in self.process.stderr:
            self.lines.append(line)
            if '"serving"' in line:
                break
        self.may_read.wait()
        self.lines.extend(self.process.stderr)


@pytest.mark.heavy
def test_a_stderr_that_nobody_reads_holds_up_nothing(tmp_path: Any) -> None:
    with served_repository(tmp_path) as root, Unread(root) as server:
        for _ in range(300):
            assert server.client.get("/healthz", timeout=20).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        try:
            assert server.process.wait(20) == 0
        finally:
            server.may_read.set()
