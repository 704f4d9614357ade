"""Limits on the age and size of a prediction log; by default nothing is deleted."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from darkroom.monitoring import feedback

CLEAN_SECONDS = 600.0  # between two checks


@dataclass(frozen=True)
class Retention:
    """The limits of a log; infinite: none.

    Attributes:
        max_seconds: since a file of the log or of true labels was last written.
        max_bytes: of the log's files; the oldest are deleted first. It does not apply to true labels.
    """

    max_seconds: float
    max_bytes: float

    def clean(self, log: Path) -> None:
        """Delete files beyond the limits, and files that a kill left incomplete.

        Raises:
            OSError: some of them cannot be deleted; the others are.
        """
        labels = (log / feedback.FOLDER).glob("*T*Z-*-*.jsonl")
        try:
            remove_oldest(log.glob("*T*Z-*-*.parquet"), max_seconds=self.max_seconds, max_bytes=self.max_bytes)
        finally:
            remove_oldest(labels, max_seconds=self.max_seconds, max_bytes=float("inf"))


def remove_oldest(paths: Iterable[Path], *, max_seconds: float, max_bytes: float) -> None:
    """Delete files that are older than max_seconds, then the oldest until the rest fits into max_bytes.

    Raises:
        OSError: some of them cannot be deleted; the others are.
    """
    found, failed = [], None
    for path in paths:
        try:
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
        except FileNotFoundError:  # another process was faster, here and below
            continue
        except OSError as error:
            failed = error
    oldest, n_bytes = time.time() - max_seconds, 0
    for changed, size, path in sorted(found, reverse=True):
        n_bytes += size
        if changed < oldest or n_bytes > max_bytes:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failed = error
    if failed:
        raise failed
