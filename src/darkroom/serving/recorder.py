"""Appends what was answered to a log of predictions, on a thread of its own: nobody waits for a disk."""

import hashlib
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from typing import Any

import numpy as np

from darkroom.monitoring.log import PredictionLog
from darkroom.monitoring.measures import measures
from darkroom.serving.follower import Log

FLUSH_SECONDS = 60.0  # what is held longer than this is written, also when no more images come
MAX_BATCHES = 1000  # that wait for the disk, of some 500 bytes per image


class Recorder:
    """Turns answers into rows of a PredictionLog. Rows that come faster than the disk takes them are dropped.

    Args:
        log: called with (event, message) when rows are lost; it must not raise.
        max_batches: that wait for the disk.
    """

    def __init__(self, target: PredictionLog, *, log: Log, max_batches: int = MAX_BATCHES) -> None:
        self._target = target
        self._log = log
        self._rows: Queue[list[dict[str, Any]] | None] = Queue(max_batches)
        self._lock = threading.Lock()
        self._n_dropped = 0
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def record(self, version: str, answered: Sequence[tuple[bytes, np.ndarray, dict[str, Any]]]) -> None:
        """Take the image files of a batch, their pixels as the network takes them, and the answers."""
        now = datetime.now(UTC)
        try:
            self._rows.put_nowait([_row(version, now, *one) for one in answered])
        except Full:
            with self._lock:
                first, self._n_dropped = not self._n_dropped, self._n_dropped + len(answered)
            if first:
                self._log("log_rows_dropped", "the log cannot keep up with the predictions; rows are dropped from it")

    def close(self) -> None:
        """Write what is held, and end."""
        self._rows.put(None)
        self._thread.join()
        if self._n_dropped:
            self._log("log_rows_dropped", f"{self._n_dropped} rows were dropped from the log")

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
            except Exception as error:  # the disk is full, say: these rows are lost, the answers are not
                self._log("log_not_written", str(error))


def _row(version: str, now: datetime, data: bytes, pixels: np.ndarray, answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": hashlib.sha256(data).hexdigest(),
        "time": now,
        "version": version,
        "label": answer["label"],
        "confidence": answer["probability"],
        **measures(data, pixels),
    }
