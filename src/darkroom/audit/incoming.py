"""Labels that a person gives to the images of a directory: each image is copied to data/incoming/<class>/."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from darkroom.errors import DataError
from darkroom.files.writing import replacing, write_errors


class _Made(NamedTuple):
    """A decision: the row of the image, its copy, and the earlier copy under another class, if there was one."""

    row: int
    copy: Path
    earlier: Path | None


class Incoming:
    """The labels of one review.

    Args:
        folder: data/incoming.
        files: the images, by row.
        classes: the possible labels.

    Attributes:
        made: the rows that were labelled, in order.
    """

    def __init__(self, folder: Path, files: Sequence[Path], classes: list[str]) -> None:
        self.folder, self.files, self.classes = folder, files, classes
        self._made: list[_Made] = []
        self._lock = Lock()  # two tabs may decide at the same time

    @property
    def made(self) -> list[int]:
        return [one.row for one in self._made]

    def decide(self, row: int, new: str) -> None:
        """Copy an image to the directory of its class, or move its copy there from another class.

        Raises:
            DataError: the image or the class does not exist, or a file cannot be written.
        """
        if not 0 <= row < len(self.files):
            raise DataError(f"image {row} does not exist; expected 0 to {len(self.files) - 1}")
        if new not in self.classes:
            raise DataError(
                f"{new!r} is not a class; expected one of {', '.join(self.classes)}; for a new class make its "
                f"directory in {self.folder} and start again"
            )
        file = self.files[row]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); it was there when the review began") from None
        with self._lock, write_errors(self.folder):
            name = f"{hashlib.sha256(content).hexdigest()}{file.suffix.lower()}"
            copy = self.folder / new / name
            earlier = next(self.folder.glob(f"*/{name}"), None)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if earlier is not None:
                earlier.rename(copy)
            else:
                with replacing(copy) as part:
                    part.write_bytes(content)
            self._made.append(_Made(row, copy, earlier))

    def undo(self) -> int | None:
        """Undo the last label and return the row of its image; None if there is none."""
        with self._lock, write_errors(self.folder):
            if not self._made:
                return None
            last = self._made[-1]
            if last.earlier is None:
                last.copy.unlink(missing_ok=True)
            else:
                last.earlier.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # somebody else has moved it
                    last.copy.rename(last.earlier)
            self._made.pop()
            return last.row
