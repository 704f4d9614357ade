"""Labels that a person gives to images of a folder: each is copied to data/incoming/<class>/, and taken back again."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from darkroom.errors import DataError
from darkroom.files.writing import replacing, sha256_of, write_errors


class _Made(NamedTuple):
    """A decision: the row of the image, its copy, and where a copy was before, if there was one."""

    row: int
    copy: Path
    earlier: Path | None


class Incoming:
    """The labels of one review.

    Args:
        folder: data/incoming.
        files: the images, by row.
        classes: what a label may be.

    Attributes:
        made: the rows that were labelled, in order.
    """

    def __init__(self, folder: Path, files: Sequence[Path], classes: list[str]) -> None:
        self.folder, self.files, self.classes = folder, files, classes
        self._made: list[_Made] = []

    @property
    def made(self) -> list[int]:
        return [one.row for one in self._made]

    def decide(self, row: int, new: str) -> None:
        """Copy an image to the directory of its class, away from that of another class.

        Raises:
            DataError: there is no such image or class, or the disk refuses.
        """
        if not 0 <= row < len(self.files):
            raise DataError(f"there is no image {row}; expected 0 to {len(self.files) - 1}")
        if new not in self.classes:
            raise DataError(f"{new!r} is not a class; expected one of {', '.join(self.classes)}")
        file = self.files[row]
        with write_errors(self.folder):
            name = f"{sha256_of(file)}{file.suffix.lower()}"
            copy = self.folder / new / name
            earlier = next(self.folder.glob(f"*/{name}"), None)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if earlier is not None:
                earlier.rename(copy)
            else:
                with replacing(copy) as part:
                    part.write_bytes(file.read_bytes())
        self._made.append(_Made(row, copy, earlier))

    def undo(self) -> int | None:
        """Take the last label back and return the row of its image; None if there is none."""
        if not self._made:
            return None
        last = self._made[-1]
        with write_errors(self.folder):
            if last.earlier is None:
                last.copy.unlink(missing_ok=True)
            else:
                last.copy.rename(last.earlier)
        self._made.pop()
        return last.row
