"""Write answers to a log of predictions, and kept images, on a thread, so that no request waits for a disk."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from typing import Any, NamedTuple

from darkroom.monitoring.kept_images import Keeping, KeptImages
from darkroom.monitoring.log import PredictionLog
from darkroom.monitoring.retention import CLEAN_SECONDS, Retention
from darkroom.serving.limits import Log

FLUSH_SECONDS = 60.0  # older rows are written, even if no more images arrive
MAX_BATCHES = 1000  # that wait for the disk, at about 600 bytes per image
MAX_IMAGE_BYTES = 64 << 20  # of images that wait for the disk

Batch = tuple[list[dict[str, Any]], list[tuple[str, bytes]]]  # rows; id and file of images to keep


class Answered(NamedTuple):
    """An answered image.

    Attributes:
        id: the sha256 of the file.
        familiarity: None if the version cannot tell.
        measures: see monitoring.measures.
    """

    data: bytes
    id: str
    label: str
    probability: float
    familiarity: float | None
    measures: dict[str, float | None]
    request_id: str
    position: int


class Recorder:
    """Writes answers as rows of a PredictionLog. If the disk is too slow, rows are dropped.

    Args:
        log: called with (event, message) when rows or images are lost, and when that is over; it must not raise.
        dropped: called with ("rows" or "images", number) for all that are lost.
        keeping: limits of kept images; None: none are kept.
        retention: limits of the log; None: none.
        max_batches: that wait for the disk.
        max_image_bytes: of images that wait for the disk.
    """

    def __init__(
        self,
        target: PredictionLog,
        *,
        log: Log,
        dropped: Callable[[str, int], None],
        keeping: Keeping | None = None,
        retention: Retention | None = None,
        max_batches: int = MAX_BATCHES,
        max_image_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self._target = target
        self._log = log
        self._count = dropped
        self._keeping = keeping
        self._retention, self._cleaned = retention, -CLEAN_SECONDS
        self._fails = False  # whether the last write did
        self._kept = KeptImages(target.folder, keeping) if keeping else None
        self._batches: Queue[Batch | None] = Queue(max_batches)
        self._lock = threading.Lock()
        self._dropped = {"rows": 0, "images": 0}
        self._room = max_image_bytes
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def record(self, version: str, answered: Sequence[Answered]) -> None:
        """Queue an answered batch."""
        now = datetime.now(UTC)
        rows = [_row(version, now, one) for one in answered]
        images = self._wanted(self._keeping, rows, answered) if self._keeping else []
        try:
            self._batches.put_nowait((rows, images))
        except Full:
            self._release(images)
            self._drop("rows", len(rows))

    def close(self) -> None:
        """Write all queued rows, and end."""
        self._batches.put(None)
        self._thread.join()
        for what, n in self._dropped.items():
            if n:
                self._log(f"log_{what}_dropped", f"{n} {what} were dropped from the log")

    def _wanted(
        self, keeping: Keeping, rows: list[dict[str, Any]], answered: Sequence[Answered]
    ) -> list[tuple[str, bytes]]:
        """Return the images of a batch to keep, within the limit of waiting bytes."""
        images = {row["id"]: one.data for row, one in zip(rows, answered, strict=True)}
        wanted, n_dropped = list[tuple[str, bytes]](), 0
        with self._lock:
            for image, data in images.items():
                if not keeping.wants(image):
                    continue
                if len(data) > self._room:
                    n_dropped += 1
                    continue
                self._room -= len(data)
                wanted.append((image, data))
        if n_dropped:
            self._drop("images", n_dropped)
        return wanted

    def _release(self, images: list[tuple[str, bytes]]) -> None:
        with self._lock:
            self._room += sum(len(data) for _, data in images)

    def _drop(self, what: str, n: int) -> None:
        self._count(what, n)
        with self._lock:
            first, self._dropped[what] = not self._dropped[what], self._dropped[what] + n
        if first:
            message = f"the log cannot keep up with the predictions; {what} are dropped from it"
            self._log(f"log_{what}_dropped", message)

    def _run(self) -> None:
        batch: Batch | None = ([], [])
        while batch is not None:
            try:
                batch = self._batches.get(timeout=FLUSH_SECONDS)
            except Empty:
                batch = ([], [])
            self._clean_if_due()  # first, because it frees space on a full disk
            self._write(*(batch or ([], [])))

    def _write(self, rows: list[dict[str, Any]], images: list[tuple[str, bytes]]) -> None:
        self._release(images)
        n_lost, n_taken, written, failed = self._target.n_lost, 0, False, False
        try:
            written = self._target.append(rows) if rows else self._target.flush()
        except Exception as error:  # for example a full disk; only the rows are lost
            failed = True
            self._lose("rows", self._target.n_lost - n_lost or len(rows), error)
        try:
            if self._kept:
                for image, data in images:
                    written = self._kept.keep(image, data) or written
                    n_taken += 1
        except Exception as error:
            failed = True
            self._lose("images", len(images) - n_taken, error)
        if written and self._fails and not failed:
            self._fails = False
            self._log("log_written", "the log is written again")

    def _lose(self, what: str, n: int, error: Exception) -> None:
        self._count(what, n)
        if not self._fails:
            self._fails = True
            self._log(
                "log_not_written", f"{error}; until that is over, rows and images are lost, and counted in /metrics"
            )

    def _clean_if_due(self) -> None:
        try:
            if self._kept:
                self._kept.clean_if_due()
            if self._retention and time.monotonic() - self._cleaned >= CLEAN_SECONDS:
                self._cleaned = time.monotonic()
                self._retention.clean(self._target.folder)
        except OSError as error:
            self._log("log_not_cleaned", f"old files of the log cannot be removed: {error}")


def _row(version: str, now: datetime, one: Answered) -> dict[str, Any]:
    return {
        "id": one.id,
        "time": now,
        "version": version,
        "label": one.label,
        "confidence": one.probability,
        "familiarity": one.familiarity,
        **one.measures,
        "request_id": one.request_id,
        "position": one.position,
    }
