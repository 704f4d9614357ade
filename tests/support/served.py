"""A real `darkroom serve` in a process of its own, on the champion of a repository in a temporary folder."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import httpx
import numpy as np
import psutil
import pytest

from darkroom.files.writing import sha256_of
from darkroom.registry.register import register
from darkroom.registry.snapshot import Version
from darkroom.tracking import store
from tests.support.trained_repository import SHAPE, fresh_store, prepare, train

SERVE = ["serve", "--model", "pets", "--port", "0", "--drain-seconds", "0.5"]
DEADLINE = 180.0  # seconds; the machine may be busy with something else


def png(*, cat: bool | None) -> bytes:
    """Return an image that models reading pixel 0 call a cat or a dog; None: that is in between."""
    image = np.zeros(SHAPE, np.uint8)
    image.reshape(-1)[8 if cat else 0] = 0 if cat is None else 255
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def register_pets(root: Path, *, reads: int, tells: bool = False) -> Version:
    """Return a registered version that believes pixel `reads`; see trained_repository."""
    uri = train(root, reads=reads, tells=tells)
    return register("pets", model_uri=uri, model_sha256=sha256_of(root / "models/cnn/model.onnx"), tags={})


def set_champion(version: Version) -> None:
    """Move the alias as any client of MLflow may."""
    store.client().set_registered_model_alias("pets", "champion", version.version)


@contextmanager
def served_repository(root: Path) -> Iterator[Path]:
    """Make `root` a repository whose champion, version 1, is never wrong; the store of this process until the end."""
    with pytest.MonkeyPatch.context() as patch:
        fresh_store(root, patch)
        prepare(root)
        set_champion(register_pets(root, reads=0))
        yield root


def eventually(holds: Callable[[], Any], *, within: float = DEADLINE) -> Any:
    """Return the first true value; fail at the deadline."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not so within {within} s")


class Server:
    """The process, its log lines so far, and a client of it."""

    def __init__(self, root: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        left_out = ("MLFLOW_", "PYTEST_", "DARKROOM_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "darkroom.cli.main", *SERVE, *options],
            cwd=root,
            env={**inherited, "DVC_ROOT": str(root), **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        try:
            started = eventually(lambda: self.events("serving") or self.process.poll() is not None)
            assert isinstance(started, list), self.lines
        except AssertionError:
            self.process.kill()
            self.stop()
            raise
        self.port = int(started[0]["url"].rpartition(":")[2])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=DEADLINE, trust_env=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()
        self.stop()

    def stop(self) -> int:
        """Ask the process to end; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(DEADLINE)
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()
        return code

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind so far."""
        return [
            line
            for line in map(json.loads, filter(lambda line: line.startswith("{"), self.lines))
            if line["event"] == name
        ]

    def workers(self) -> list[psutil.Process]:
        """Return the processes that decode and predict."""
        return list(psutil.Process(self.process.pid).children())

    def megabytes(self) -> float:
        """Return the resident memory of the process and its workers."""
        return float(sum(one.memory_info().rss for one in (psutil.Process(self.process.pid), *self.workers()))) / 1e6

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
