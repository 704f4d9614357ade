"""Store true labels from a file as feedback, and copy labelled images to data/incoming."""

import csv
import json
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from darkroom.deployable.headers import read_header
from darkroom.errors import DataError
from darkroom.files.writing import replacing, sha256_of, write_errors
from darkroom.monitoring import log
from darkroom.monitoring.accuracy import true_labels
from darkroom.monitoring.feedback import REQUEST_ID, SHA256, TrueLabel, listed, read_feedback, refusal
from darkroom.monitoring.kept_images import stored_images

NAMES = ("id", "sha256", "path")  # possible names of the column that identifies an image
FORM = 'expected lines of CSV with a head such as "path,label" (or id, sha256), or of JSON: {"path": ..., "label": ...}'
SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "JPEG 2000": ".jp2",
    "PNM": ".pnm",
    "AVIF": ".avif",
    "HEIC": ".heic",
}


@dataclass(frozen=True)
class Labelled:
    """The content of a file of labels: the labels, and the paths of the images that it names by path."""

    labels: Sequence[TrueLabel]
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Copied:
    """The result of copying the labelled images of a log.

    Attributes:
        n_copied: number of images copied to data/incoming.
        n_known: number of images that were there already.
        n_absent: number of images whose files were not kept.
        unknown: number of images not copied, by label, because it is not a class of the model or of data/incoming.
    """

    n_copied: int
    n_known: int
    n_absent: int
    unknown: Mapping[str, int]


def read_labels(path: Path, *, classes: Collection[str]) -> Labelled:
    """Return the true labels in a file: CSV with a header, or a JSON object per line.

    Args:
        path: each line has `label`, and identifies its image by `id` (sha256 of its bytes, or the request_id of its
            answer), `sha256` or `path` (relative to the current directory), optionally with its `position` in a request
            with several images.
        classes: the known classes, see feedback.refusal.

    Raises:
        DataError: the file cannot be read, or a line is invalid; then no label is accepted.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {FORM}") from None
    labels, files, now = list[TrueLabel](), dict[str, Path](), datetime.now(UTC)
    for number, row in _rows(text, path):
        where = f"{path}, line {number}"
        image = _image(row, where, files)
        label, position = row.get("label"), row.get("position")
        if not isinstance(label, str):
            raise DataError(f"{where}: there is no label; {FORM}")
        if why := refusal(label, classes):
            raise DataError(f"{where}: label {label[:40]!a}: {why}; known classes: {listed(sorted(classes))}")
        try:
            place = None if position in (None, "") else int(str(position))
        except ValueError:
            raise DataError(f"{where}: position is {position!a}; expected a number from 0") from None
        labels.append(TrueLabel(image, label, now, place))
    if not labels:
        raise DataError(f"{path} has no labels; {FORM}")
    return Labelled(labels, files)


def copy_to_incoming(
    folder: Path, incoming: Path, *, files: Mapping[str, Path], classes: Collection[str], new_classes: bool
) -> Copied:
    """Copy every image with a true label whose file exists to <class>/<sha256>.<suffix> in data/incoming.

    Earlier copies of an image under other labels are deleted, because an image has one class.

    Args:
        folder: of the prediction log.
        incoming: data/incoming.
        files: further image files by id, besides those in the log.
        classes: of the model.
        new_classes: whether a label may become a new class.

    Raises:
        DataError: the log cannot be read, or a file cannot be written.
    """
    import pandas as pd

    labels, _ = read_feedback(folder)
    predicted = log.read(folder).select(["id", "request_id", "position"]).to_pandas()
    true, *_ = true_labels(pd.concat([predicted, pd.DataFrame({"id": [*files]})]), labels)
    kept = {**stored_images(folder), **files}
    there = dict[str, list[Path]]()
    for path in sorted(incoming.glob("*/*")):
        there.setdefault(path.stem, []).append(path)
    known = {*classes, *(path.name for path in incoming.glob("*") if path.is_dir())}
    counts, unknown = {"copied": 0, "known": 0, "absent": 0}, dict[str, int]()
    for image, label in true.items():
        before = there.get(image, [])
        if (label not in known and not new_classes) or refusal(label, known):
            unknown[label] = unknown.get(label, 0) + 1
            continue
        others = [path for path in before if path.parent.name != label]
        if len(others) < len(before):
            counts["known"] += 1
        elif image in kept or others:
            known.add(label)
            _copy(others[0] if others else kept[image], incoming / label, image)
            counts["copied"] += 1
        else:
            counts["absent"] += 1
        for path in others:
            path.unlink()
    return Copied(counts["copied"], counts["known"], counts["absent"], unknown)


def _copy(source: Path, target: Path, image: str) -> None:
    data = source.read_bytes()
    try:
        suffix = SUFFIXES[read_header(data).kind]
    except (struct.error, IndexError, ValueError):
        suffix = ".bin"  # not an image; `preprocess` rejects it
    path = target / f"{image}{suffix}"
    with write_errors(path), replacing(path) as part:
        part.write_bytes(data)


def _rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the values of each line."""
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, dict(json.loads(line))
                except (ValueError, TypeError, RecursionError) as error:
                    raise DataError(f"{path}, line {number} is not a JSON object ({error}); {FORM}") from None
        return
    reader = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not CSV ({error}); {FORM}") from None


def _image(row: Mapping[str, Any], where: str, files: dict[str, Path]) -> str:
    """Return the id of a line's image; if the line has a path, add the file to `files`."""
    given = [(name, row[name]) for name in NAMES if row.get(name)]
    if len(given) != 1 or not isinstance(given[0][1], str):
        raise DataError(f"{where}: it names {len(given)} images, expected one by id, sha256 or path; {FORM}")
    name, value = given[0][0], str(given[0][1])
    if name == "path":
        try:
            image = sha256_of(Path(value))
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: {value} cannot be read ({error}); correct the path") from None
        files[image] = Path(value)
        return image
    if SHA256.fullmatch(value.lower()):
        return value.lower()
    if name == "sha256" or not REQUEST_ID.fullmatch(value):
        raise DataError(
            f"{where}: {name} is {value[:80]!a}; expected 64 hex digits, or in id the request_id of an answer"
        )
    return value
