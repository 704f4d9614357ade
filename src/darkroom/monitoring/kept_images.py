"""Images that `darkroom serve --keep-images` stores beside its log, with limits on their share, age and size.

They have the names of keep_image in log.py, in a directory of their own, because the images of `darkroom batch
--log-images` are never removed.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from darkroom.monitoring.log import keep_image
from darkroom.monitoring.retention import CLEAN_SECONDS, remove_oldest

FOLDER = "kept"  # in the log's directory
CLEAN_SHARE = 20  # the directory is measured again after every 1/20 of max_bytes, because other servers may share it


@dataclass(frozen=True)
class Keeping:
    """The limits of kept images.

    Attributes:
        fraction: of the images, drawn by content, so the same image is always kept, or never.
        max_seconds: since an image was first kept.
        max_bytes: of all images; the oldest are deleted first. Each server on one directory may exceed it by 5 %.
    """

    fraction: float
    max_seconds: float
    max_bytes: int

    def wants(self, image_id: str) -> bool:
        """Return whether to keep this image."""
        return int(image_id[:13], 16) < self.fraction * 16**13


class KeptImages:
    """Write images to the directory, and delete those beyond the limits. For one thread.

    Args:
        log: the directory of the prediction log.
    """

    def __init__(self, log: Path, keeping: Keeping) -> None:
        self._folder = log / FOLDER
        self._keeping = keeping
        self._room = 0  # bytes until the directory is measured again
        self._cleaned = -CLEAN_SECONDS

    def keep(self, image_id: str, data: bytes) -> bool:
        """Write an image unless it exists or exceeds max_bytes alone; return whether it was written.

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
        """Delete images that are too old, at most once per interval."""
        if time.monotonic() - self._cleaned >= CLEAN_SECONDS:
            self._clean(reserve=0)

    def _clean(self, *, reserve: int) -> None:
        """Delete images that are too old, then the oldest until `reserve` bytes and 1/CLEAN_SHARE of all are free."""
        self._cleaned = time.monotonic()
        share = max(reserve, self._keeping.max_bytes // CLEAN_SHARE)
        images = self._folder.glob("images/*/*")  # includes files that a kill left incomplete
        max_bytes = self._keeping.max_bytes - share
        remove_oldest(images, max_seconds=self._keeping.max_seconds, max_bytes=max_bytes)
        self._room = share


def stored_images(log: Path) -> dict[str, Path]:
    """Return the files of all images in a log's directory, by id, of `serve` and `batch`."""
    folders = (log / "images", log / FOLDER / "images")
    return {path.name: path for folder in folders for path in folder.glob("*/[!.]*")}
