"""data/corrections.csv: labels that a person corrected or confirmed, and images to leave out, by content.

    id     sha256 of the image file, or of shape and bytes of pixels, as in index.parquet
    old    the label at the time of the decision
    new    the new label; `drop` leaves the image out; the same as old confirms it
    who, when

The lines of an image are applied in order, each only if its old label is the present one. If the source itself is
corrected, the line therefore does nothing.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from darkroom.errors import DataError
from darkroom.files.writing import read_csv, write_csv
from darkroom.project.text import shown

DROP = "drop"
PAIRS_NAMED = 20  # of old and new label, in the manifest


class Correction(NamedTuple):
    """A line of the file."""

    id: str
    old: str
    new: str
    who: str
    when: str


class Corrected(NamedTuple):
    """An image whose label was corrected; `row` is None if it was dropped, `official` is test, val or train."""

    source: str
    correction: Correction
    row: int | None
    official: str


def read_corrections(path: Path) -> list[Correction]:
    """Return the lines of the file; none if it does not exist.

    Raises:
        DataError: a line is wrong.
    """
    if not path.exists():
        return []
    try:
        lines = read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it with git") from None
    for number, line in enumerate(lines, 2):
        if tuple(line) != Correction._fields:
            found = ", ".join(line) or "nothing"
            raise DataError(f"{path}, line {number}: found {found}; expected columns {', '.join(Correction._fields)}")
        if not re.fullmatch("[0-9a-f]{64}", line["id"]) or not line["old"] or not line["new"]:
            raise DataError(f"{path}, line {number}: expected an id of 64 hex digits, an old and a new label")
    return [Correction(**line) for line in lines]


def write_corrections(path: Path, lines: Iterable[Correction]) -> None:
    """Write the file, atomically."""
    write_csv(path, Correction._fields, lines)


class Corrections:
    """The corrections of a dataset, applied while its images are read.

    Args:
        lines: of the file.

    Attributes:
        applied: one entry per corrected or dropped image, in the order of the images.
    """

    def __init__(self, lines: Sequence[Correction] = ()) -> None:
        self._of: dict[bytes, list[Correction]] = {}
        for line in lines:
            self._of.setdefault(bytes.fromhex(line.id), []).append(line)
        self.applied: dict[bytes, Corrected] = {}
        self._seen: set[bytes] = set()
        self._unfit: dict[bytes, str] = {}
        self._labels: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._of)

    def label(self, image_id: bytes, label: str) -> Correction | None:
        """Return the first old and the last new label of an image as one correction, None if its label stays."""
        lines = self._of.get(image_id)
        if lines is None:
            return None
        self._seen.add(image_id)
        first, last = label, None
        for line in lines:
            if line.old == label:
                label, last = line.new, line
        if last is None and label not in {line.new for line in lines}:
            self._unfit[image_id] = label
        return last._replace(old=first) if last and last.new != first else None

    def check(self, classes: Collection[str]) -> None:
        """Refuse corrections to a label that no image has by itself, because a typing error would create a class.

        Args:
            classes: the labels of all images before corrections.

        Raises:
            DataError: names the label.
        """
        lines = [line for image_id in self._seen for line in self._of[image_id]]
        for line in lines:
            if line.new not in {*classes, DROP}:
                raise DataError(
                    f"data/corrections.csv: the new label {shown(line.new)} of {line.id[:12]}... is not a class of the "
                    f"dataset; expected {DROP} or one of {', '.join(map(shown, sorted(classes)))}"
                )
        if DROP in classes and any(line.new == DROP for line in lines):
            raise DataError(f"data/corrections.csv: {DROP} means that an image is left out; rename the class {DROP!r}")

    def in_words(self, splits: Mapping[int, str]) -> str:
        """Return the numbers of corrected and dropped images and of ignored lines, in words.

        Args:
            splits: of the corrected rows.
        """
        done = [*self.applied.values()]
        dropped = sum(one.row is None for one in done)
        of_test = sum(is_measure(one, splits) for one in done)
        n = len(done) - dropped
        words = (
            f"data/corrections.csv: {n} label{'s' * (n != 1)} corrected, {dropped} image{'s' * (dropped != 1)} dropped"
        )
        if of_test:
            words += (
                f", {of_test} of them test images: the measure has changed, and registered versions are scored again"
            )
        if self._unfit:
            first = next(iter(self._unfit))
            words += (
                f"; {len(self._unfit)} ignored, because the image has another label now (first: {first.hex()[:12]}... "
                f"is {shown(self._unfit[first])}, not {shown(self._of[first][0].old)})"
            )
        if gone := len(self._of) - len(self._seen):
            words += f"; {gone} of images that are not in the dataset"
        return words

    def summary(self, splits: Mapping[int, str]) -> dict[str, Any]:
        """Return the manifest's entry: numbers of corrected and dropped images per split, and the most common pairs."""
        done = [*self.applied.values()]
        pairs = Counter((one.correction.old, one.correction.new) for one in done)
        return {
            "n_corrected": sum(one.row is not None for one in done),
            "n_dropped": sum(one.row is None for one in done),
            "n_test": sum(is_measure(one, splits) for one in done),
            "pairs": [{"old": old, "new": new, "n": n} for (old, new), n in pairs.most_common(PAIRS_NAMED)],
        }

    def lines(self, splits: Mapping[int, str]) -> list[tuple[str, ...]]:
        """Return the columns of LISTED for every corrected or dropped image."""
        return [
            (one.source, *one.correction, _split(one, splits), "yes" if is_measure(one, splits) else "")
            for one in self.applied.values()
        ]


LISTED = ("source", *Correction._fields, "split", "changes_the_measure")


def _split(one: Corrected, splits: Mapping[int, str]) -> str:
    if one.row is not None:
        return splits.get(one.row, "unused")
    return "dropped" if one.official == "train" else f"dropped from {one.official}"  # else nobody drew a split for it


def is_measure(one: Corrected, splits: Mapping[int, str]) -> bool:
    """Return whether an image is one on which versions are evaluated."""
    return (splits.get(one.row) if one.row is not None else one.official) in ("test", "recent")
