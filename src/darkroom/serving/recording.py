"""Appends what was answered to a log of predictions, on a thread of its own: nobody waits for a disk."""

import hashlib
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from darkroom.errors import DarkroomError
from darkroom.headers import read_header
from darkroom.monitoring import PredictionLog, features
from darkroom.serving.following import Log

FLUSH_SECONDS = 60.0  # what is held longer than this is written, also when no more pictures come


class Recorder:
    """Turns answers into rows of a PredictionLog."""

    def __init__(self, target: PredictionLog, *, log: Log) -> None:
        self._target = target
        self._log = log
        self._rows: SimpleQueue[list[dict[str, Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def record(self, version: str, answered: Sequence[tuple[bytes, np.ndarray, dict[str, Any]]]) -> None:
        """Take the image files of a batch, their pixels as the network eats them, and the answers."""
        now = datetime.now(UTC)
        self._rows.put([_row(version, now, *one) for one in answered])

    def close(self) -> None:
        """Write what is held, and end."""
        self._rows.put(None)
        self._thread.join()

    def _run(self) -> None:
        rows: list[dict[str, Any]] | None = []
        while rows is not None:
            try:
                rows = self._rows.get(timeout=FLUSH_SECONDS)
            except Empty:
                rows = []
            try:
                if rows:
                    self._target.append(rows)
                else:
                    self._target.flush()
            except DarkroomError as error:  # the disk is full: these rows are lost, the answers are not
                self._log("log_not_written", str(error))


def _row(version: str, now: datetime, data: bytes, pixels: np.ndarray, answer: dict[str, Any]) -> dict[str, Any]:
    width, height, _ = read_header(data)
    return {
        "id": hashlib.sha256(data).hexdigest(),
        "time": now,
        "version": version,
        "label": answer["label"],
        "confidence": answer["probability"],
        "width": width,
        "height": height,
        **features(pixels),
    }
