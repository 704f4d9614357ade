"""The images of a directory that have no label yet, and a model's answers for them."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darkroom.audit.pixels import small_copies
from darkroom.audit.run import CORRECTIONS
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.preparation.corrections import read_corrections
from darkroom.data.raw.listing import unreadable, walk
from darkroom.data.raw.names import is_document, is_litter
from darkroom.errors import DataError
from darkroom.files.writing import sha256_of

CHUNK = 256  # images in memory at a time


class Unlabelled(NamedTuple):
    """Images without a label, in the order of their names.

    Attributes:
        files: (n,).
        probabilities: float32 (n, classes).
        unknown: bool (n,); None if the model cannot tell.
        copies: uint8 (n, h, w, C), see pixels.small_copies.
        n_labelled: number of images of the directory that are labelled already, or repeat another one.
        unread: "file: reason" for each file that cannot be used.
    """

    files: Sequence[Path]
    probabilities: np.ndarray
    unknown: np.ndarray | None
    copies: np.ndarray
    n_labelled: int
    unread: Sequence[str]


def read(folder: Path, package: Any, *, labelled: Collection[str]) -> Unlabelled:
    """Read the images below a directory that have no label, and classify them.

    Args:
        package: the model, a Package.
        labelled: sha256 of the files with a label.

    Raises:
        DataError: there is no such directory, or it has no image without a label.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory; expected one with images")
    seen, unread, n_seen = set(labelled), list[str](), 0
    files, parts = list[Path](), list[tuple[np.ndarray, ...]]()
    for chunk, n_repeated in _chunks(folder, package, seen, unread):
        n_seen += n_repeated
        if not chunk:
            continue
        images = np.stack([image for _, image in chunk])
        files += [path for path, _ in chunk]
        probabilities, familiarity = package.answers(images)
        strange = np.empty(0) if familiarity is None else familiarity
        parts.append((probabilities, strange, small_copies(images, np.arange(len(images)))))
    if not files:
        first = f" (first: {unread[0]})" if unread else ""
        raise DataError(
            f"{folder}: no image without a label; {n_seen} are labelled, {len(unread)} cannot be read{first}"
        )
    probabilities, familiarity, copies = (np.concatenate(part) for part in zip(*parts, strict=True))
    unknown = familiarity < package.unknown_below if package.unknown_below is not None else None
    return Unlabelled(files, probabilities, unknown, copies, n_seen, unread)


def _chunks(
    folder: Path, package: Any, seen: set[str], unread: list[str]
) -> Iterator[tuple[list[tuple[Path, np.ndarray]], int]]:
    """Yield at most CHUNK new images at a time, preprocessed for the model, and the number of images skipped."""
    chunk: list[tuple[Path, np.ndarray]] = []
    n_seen = 0
    for name, path, is_directory in walk(folder):
        if is_directory or is_document(name):
            continue
        try:
            if (reason := unreadable(path)) is not None:
                raise ValueError(reason)
            if (n_bytes := path.stat().st_size) > package.MAX_BYTES:
                raise ValueError(f"{n_bytes:,} bytes are more than an image may have ({package.MAX_BYTES:,})")
            content = path.read_bytes()
            image = package.decode(content)
        except (OSError, ValueError) as error:
            unread.append(f"{name}: {error}")
            continue
        identity = hashlib.sha256(content).hexdigest()
        if identity in seen:
            n_seen += 1
            continue
        seen.add(identity)
        chunk.append((path, image))
        if len(chunk) == CHUNK:
            yield chunk, n_seen
            chunk, n_seen = [], 0
    yield chunk, n_seen


def known_classes(root: Path) -> set[str]:
    """Return the classes of data/prepared, and those that have a directory in data/incoming."""
    prepared, incoming = root / "data" / "prepared", root / "data" / "incoming"
    of_dataset = set(Dataset.open(prepared).classes) if (prepared / "manifest.json").exists() else set()
    return of_dataset | {path.name for path in incoming.glob("*") if path.is_dir() and not is_litter(path.name)}


def labelled_ids(root: Path) -> set[str]:
    """Return the sha256 of all labelled image files of a repository: in data/prepared and data/incoming.

    Images that data/corrections.csv drops are included.
    """
    prepared, incoming = root / "data" / "prepared", root / "data" / "incoming"
    known = set(Dataset.open(prepared).index()["id"]) if (prepared / "manifest.json").exists() else set()
    known |= {line.id for line in read_corrections(root / CORRECTIONS)}
    return known | {
        sha256_of(path)
        for _, path, is_directory in (walk(incoming) if incoming.is_dir() else ())
        if not is_directory and unreadable(path) is None
    }
