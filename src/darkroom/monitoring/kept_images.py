"""Images that `darkroom serve` keeps beside its log if it is told to: some of them, for some days, within some bytes.

Names are those of keep_image in log.py, in a directory of their own: what `darkroom batch --log-images` keeps has no
bounds, and is never removed.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from darkroom.monitoring.log import keep_image
from darkroom.monitoring.retention import CLEAN_SECONDS, remove_oldest

FOLDER = "kept"  # in the log's directory
CLEAN_SHARE = 20  # after 1/20 of max_bytes was written, the directory is measured again: other servers may share it


@dataclass(frozen=True)
class Keeping:
    """Which images are kept.

    Attributes:
        fraction: of the images, drawn by their content: the same image is always kept, or never.
        max_seconds: since it was kept first.
        max_bytes: of all; the oldest go first. With several servers on one directory each may be 5 % above it.
    """

    fraction: float
    max_seconds: float
    max_bytes: int

    def wants(self, image_id: str) -> bool:
        """Return whether this image is one to keep."""
        return int(image_id[:13], 16) < self.fraction * 16**13


class KeptImages:
    """Writes images to the directory, and removes those that are beyond the bounds. For one thread.

    Args:
        log: the directory of the prediction log.
    """

    def __init__(self, log: Path, keeping: Keeping) -> None:
        self._folder = log / FOLDER
        self._keeping = keeping
        self._room = 0  # bytes that may be written until the directory is measured again
        self._cleaned = -CLEAN_SECONDS

    def keep(self, image_id: str, data: bytes) -> bool:
        """Write an image, unless it is there or larger than all may be; return whether it was written.

        Raises:
            DataError: a file cannot be written.
        """
        if len(data) > self._keeping.max_bytes:
            return False
        if len(data) > self._room:
            self._clean(reserve=len(data))
        written = keep_image(self._folder, image_id, data)
        if written:
            self._room -= len(data)
        return written

    def clean_if_due(self) -> None:
        """Remove what is too old, from time to time."""
        if time.monotonic() - self._cleaned >= CLEAN_SECONDS:
            self._clean(reserve=0)

    def _clean(self, *, reserve: int) -> None:
        """Remove what is too old, and the oldest, until `reserve` bytes and a share of all fit in."""
        self._cleaned = time.monotonic()
        share = max(reserve, self._keeping.max_bytes // CLEAN_SHARE)
        images = self._folder.glob("images/*/*")  # those included that a kill left half written
        max_bytes = self._keeping.max_bytes - share
        remove_oldest(images, max_seconds=self._keeping.max_seconds, max_bytes=max_bytes)
        self._room = share


def stored_images(log: Path) -> dict[str, Path]:
    """Return id -> file of every image that a log's directory holds, whoever kept it."""
    folders = (log / "images", log / FOLDER / "images")
    return {path.name: path for folder in folders for path in folder.glob("*/[!.]*")}
