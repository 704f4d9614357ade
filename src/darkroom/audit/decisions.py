"""A person's decisions about findings, written to data/corrections.csv at once; they can be undone."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.preparation.corrections import DROP, Correction, read_corrections, write_corrections
from darkroom.errors import DataError
from darkroom.project.locks import store_lock


class _Made(NamedTuple):
    """A decision: the row of the image, its line in the file, and the lines that it replaced, with their positions."""

    row: int
    line: Correction
    replaced: list[tuple[int, Correction]]


class Decisions:
    """The decisions of one review.

    Args:
        path: data/corrections.csv.
        dataset: the images.
        who: name of the reviewer.

    Attributes:
        made: the rows with a decision, in order.
    """

    def __init__(self, path: Path, dataset: Dataset, *, who: str) -> None:
        self.path, self.who = path, who
        self.classes = dataset.classes
        index = dataset.index()
        self._ids, self._labels = index["id"].tolist(), index["label"].tolist()
        self._made: list[_Made] = []

    @property
    def made(self) -> list[int]:
        return [one.row for one in self._made]

    def decide(self, row: int, new: str) -> None:
        """Give an image a label: a class (its own confirms it) or `drop`.

        Raises:
            DataError: the image or the class does not exist, or the file cannot be read.
        """
        if not 0 <= row < len(self._ids):
            raise DataError(f"image {row} does not exist; expected 0 to {len(self._ids) - 1}")
        if new not in {*self.classes, DROP}:
            raise DataError(f"{new!r} is not a class; expected {DROP} or one of {', '.join(self.classes)}")
        when = datetime.now(UTC).isoformat(timespec="seconds")
        line = Correction(self._ids[row], self._labels[row], new, self.who, when)
        replaced: list[tuple[int, Correction]] = []

        def added(lines: Sequence[Correction]) -> list[Correction]:
            replaced.extend((place, one) for place, one in enumerate(lines) if one[:2] == line[:2])
            return [*(one for one in lines if one[:2] != line[:2]), line]

        self._edit(added)
        self._made.append(_Made(row, line, replaced))

    def undo(self) -> int | None:
        """Undo the last decision and return its row; None if there is none.

        Lines that it replaced are restored. A decision that another review has since replaced stays replaced.
        """
        if not self._made:
            return None
        last = self._made[-1]

        def restored(lines: Sequence[Correction]) -> list[Correction]:
            rest = [one for one in lines if one != last.line]
            if len(rest) < len(lines):
                for place, one in last.replaced:
                    rest.insert(place, one)
            return rest

        self._edit(restored)
        self._made.pop()
        return last.row

    def _edit(self, edited: Callable[[Sequence[Correction]], list[Correction]]) -> None:
        """Read, change and write the file under a lock, because a second review may write it too."""
        with store_lock("corrections", timeout=10, root=self.path.parent.parent):
            write_corrections(self.path, edited(read_corrections(self.path)))
