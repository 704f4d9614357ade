"""The images of a folder that have no label yet, and what a model answers about them."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darkroom.audit.pixels import small_copies
from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError
from darkroom.files.writing import sha256_of

CHUNK = 256  # images in memory at a time


class Unlabelled(NamedTuple):
    """Images without a label, in the order of their names.

    Attributes:
        files: (n,).
        probabilities: float32 (n, classes).
        unknown: bool (n,); None where the model does not tell.
        copies: uint8 (n, h, w, C), see pixels.small_copies.
        n_labelled: images of the folder that are labelled already, or repeat another one.
        n_unread: files that are no images.
    """

    files: Sequence[Path]
    probabilities: np.ndarray
    unknown: np.ndarray | None
    copies: np.ndarray
    n_labelled: int
    n_unread: int


def read(folder: Path, package: Any, *, labelled: Collection[str]) -> Unlabelled:
    """Return the images below a folder that have no label, as the model sees them.

    Args:
        package: the model, a Package.
        labelled: sha256 of the files that have one.

    Raises:
        DataError: there is no such folder, or no image without a label in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory; expected one with images")
    seen, counts = set(labelled), {"labelled": 0, "unread": 0}
    files, parts = list[Path](), list[tuple[np.ndarray, ...]]()
    for chunk in _chunks(folder, package, seen, counts):
        images = np.stack([image for _, image in chunk])
        files += [path for path, _ in chunk]
        probabilities, familiarity = package.answers(images)
        strange = np.empty(0) if familiarity is None else familiarity
        parts.append((probabilities, strange, small_copies(images, np.arange(len(images)))))
    if not files:
        raise DataError(
            f"{folder}: no image without a label; {counts['labelled']} are labelled, {counts['unread']} cannot be read"
        )
    probabilities, familiarity, copies = (np.concatenate(part) for part in zip(*parts, strict=True))
    unknown = familiarity < package.unknown_below if package.unknown_below is not None else None
    return Unlabelled(files, probabilities, unknown, copies, counts["labelled"], counts["unread"])


def _chunks(
    folder: Path, package: Any, seen: set[str], counts: dict[str, int]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Yield the images that were not seen, CHUNK at a time, as the model takes them; count the others."""
    chunk: list[tuple[Path, np.ndarray]] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        try:
            content = path.read_bytes()
            image = package.decode(content)
        except (OSError, ValueError):
            counts["unread"] += 1
            continue
        identity = hashlib.sha256(content).hexdigest()
        if identity in seen:
            counts["labelled"] += 1
            continue
        seen.add(identity)
        chunk.append((path, image))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def labelled_ids(root: Path) -> set[str]:
    """Return the sha256 of the image files that a repository has labels of: in data/prepared and data/incoming."""
    prepared, incoming = root / "data" / "prepared", root / "data" / "incoming"
    known = set(Dataset.open(prepared).index()["id"]) if (prepared / "manifest.json").exists() else set()
    return known | {sha256_of(path) for path in incoming.glob("*/*") if path.is_file()}
