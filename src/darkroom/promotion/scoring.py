"""Answers of registered versions, as consumers get them for the original files, and the ids of their training images.

The candidate's predictions were recorded by evaluate; those of the champion are computed again.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from darkroom import deployable
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.seen import SEEN_FILE, read_seen_ids
from darkroom.data.raw.sources import Origin, read_originals
from darkroom.errors import DataError, RegistryError
from darkroom.files.writing import sha256_of
from darkroom.registry.snapshot import IMPORTED_FILES, PACKAGE_FILE, SHA256, Version
from darkroom.registry.versions import fetch, load

BATCH = 256  # images in memory at a time
ORIGINALS = 32  # original files in memory at a time
SEEN = f"artifacts/{SEEN_FILE}"
# Metadata of a model that do not change the pixels of its input.
NOT_OF_FORM = {"dataset", "classes", "abstain_below", "abstain", "sets", "unknown_below", "familiarity"}


class NotComparable(DataError):  # noqa: N818 - a reason
    """Two models cannot be compared fairly."""


def loaded(version: Version) -> Any:
    """Return the version's own Package, without a limit on image size: `preprocess` has accepted the images."""
    return load(version, max_pixels=sys.maxsize)


def probabilities(
    version: Version, package: Any, dataset: Dataset, rows: np.ndarray, *, raw: Path, incoming: Path
) -> np.ndarray:
    """Return a version's probabilities for these images: (n, its classes), float.

    If the data were prepared in the version's form by the same code, it gets the prepared images. Otherwise it gets the
    originals that `preprocess` read, because prepared images have lost what another size or colour mode would keep.

    Args:
        package: of the version, loaded.
        raw, incoming: the directories of the originals.

    Raises:
        NotComparable: a required original is gone or has changed.
        RegistryError: the version's code raised an error.
    """
    if _prepared_as_it_does(version, package, dataset):
        batches = _prepared(dataset, rows)
    else:
        batches = _originals(version, package, dataset, rows, raw=raw, incoming=incoming)
    found = np.empty((len(rows), len(package.classes)))
    for positions, images in batches:
        with _named(version):
            found[positions] = package.probabilities(images)
    return found


def seen_by(version: Version) -> np.ndarray | None:
    """Return the ids of the images that a version was trained and tuned on (see arrays.seen), None if it has none.

    Raises:
        RegistryError: the file is gone or was changed.
    """
    return read_seen_ids(fetch(version, SEEN)) if f"{SHA256}{SEEN}" in version.tags else None


def _prepared_as_it_does(version: Version, package: Any, dataset: Dataset) -> bool:
    form = {name: value for name, value in package.metadata.items() if name not in NOT_OF_FORM}
    ours = Path(deployable.__file__).parent
    same_code = all(
        version.tags.get(f"{SHA256}{path}") == sha256_of(ours / Path(path).name)
        for path in (PACKAGE_FILE, *IMPORTED_FILES)
    )
    return form == dataset.form and same_code


def _prepared(dataset: Dataset, rows: np.ndarray) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Yield (positions in rows, images) in batches."""
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        yield range(start, start + len(part)), dataset.images[part]


def _originals(
    version: Version, package: Any, dataset: Dataset, rows: np.ndarray, *, raw: Path, incoming: Path
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Yield (positions in rows, images preprocessed by the version) in batches, in the order of the sources."""
    index = dataset.index().iloc[rows]
    origins = [Origin(*origin) for origin in zip(index["source"], index["incoming"], index["id"], strict=True)]

    def taken(position: int, original: bytes | np.ndarray) -> np.ndarray:
        with _named(version, f" on {origins[position].source}"):
            return np.asarray(package.image(original))

    originals = _needed_by(version, read_originals(raw, incoming, origins))
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(originals, ORIGINALS)):
            yield [position for position, _ in chunk], np.stack(list(pool.map(taken, *zip(*chunk, strict=True))))


def _needed_by(version: Version, originals: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    try:
        yield from originals
    except DataError as error:
        raise NotComparable(
            f"Version {version.version} prepares images otherwise (another form, or other code), so it is scored on "
            f"the original files, but {error}."
        ) from None


@contextmanager
def _named(version: Version, where: str = "") -> Iterator[None]:
    """Turn any error of a version's code into a RegistryError that names the version."""
    try:
        yield
    except Exception as error:
        message = f"{version.name} version {version.version} cannot be scored{where}: {type(error).__name__}: {error}"
        raise RegistryError(message) from error
