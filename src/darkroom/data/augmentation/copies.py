"""Draw the augmented copies of a dataset's images on all cores, index them, and show them beside the originals."""

import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darkroom.compute.stream import stream
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.augmentation.transforms import Transforms, augment_image, build
from darkroom.files.writing import write_errors

if TYPE_CHECKING:
    import pandas as pd
    from albumentations import Compose

_CHUNK_BYTES = 8_000_000  # of pixels per task: about 20 ms of work on photographs; passing a task on takes 0.5 ms
_CHUNK_IMAGES = 1024
_READ_BYTES = (
    250_000  # read at a time; above 400 kB malloc returns the pages to the system every time, at 70 us per image
)
_PREVIEW_CLASSES = 50  # lines of a preview; a PNG of matplotlib ends at 65,536 pixels


def draw_copies(
    directory: Path,
    *,
    rows: np.ndarray,
    ids: Sequence[str],
    transforms: Transforms,
    copies: int,
    seed: int,
    scratch: Path,
    backend: str,
    workers: int | str,
    cluster: str | None = None,
) -> Iterator[np.ndarray]:
    """Yield the copies of rows of the dataset in directory: all copies of the first row, then of the second, ...

    The workers read the pixels from the dataset and return their copies in a few reused files, so memory stays bounded
    and no pixels are pickled.

    Args:
        directory: a dataset on a disk that every worker can read.
        rows: row numbers, (n,).
        ids: the image ids of these rows, (n,).
        transforms: see build().
        copies: per image, numbered from 1; 0 yields nothing.
        seed: of all draws.
        scratch: existing directory on a disk that every worker can write; holds temporary files.
        backend: see stream().
        workers: see stream().
        cluster: see stream().

    Yields:
        uint8 (m, H, W, C). The memory is reused for the next block.

    Raises:
        ParamsError: see build(); also if a transform changes the shape of an image.
        DataError: the scratch directory cannot be written.
    """
    directory, scratch = directory.resolve(), scratch.resolve()  # workers of a cluster have a directory of their own
    dataset = Dataset.open(directory)
    spec = json.dumps(list(transforms))
    if copies == 0 or len(rows) == 0:
        _pipeline(spec, dataset.image_shape, threading.get_ident())  # find a wrong name now
        return
    image_bytes = int(np.prod(dataset.image_shape)) * copies
    step = max(1, min(_CHUNK_BYTES // image_bytes, _CHUNK_IMAGES))
    buffer = np.empty((step * copies, *dataset.image_shape), np.uint8)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".copies-", ignore_cleanup_errors=True) as folder:
        free: list[Path] = []

        def chunks() -> Iterator[_Chunk]:
            # Overwriting a file costs half of writing a new one, because its pages are in memory already.
            for n_files, first in enumerate(range(0, len(rows), step)):
                file = free.pop() if free else Path(folder) / f"{n_files}"
                part = slice(first, first + step)
                digest = dataset.manifest["digest"]
                yield _Chunk(directory, digest, rows[part], tuple(ids[part]), spec, copies, seed, file)

        written = stream(_write_copies, chunks(), backend=backend, workers=workers, cluster=cluster)
        for file, n_copies in written:
            block = buffer[:n_copies]
            with file.open("rb") as opened:
                opened.readinto(block.data.cast("B"))
            free.append(file)
            yield block


def copies_index(parents: "pd.DataFrame", *, copies: int) -> "pd.DataFrame":
    """Return the index of the copies of these images, in the order of draw_copies().

    Its columns are row, id, parent_id, copy, label and split.

    Args:
        parents: id, label and split, one line per image.
        copies: per image; the id of copy 1 is "<parent id>-1".
    """
    index = parents.loc[parents.index.repeat(copies), ["id", "label", "split"]].reset_index(drop=True)
    index = index.rename(columns={"id": "parent_id"})
    index["row"] = np.arange(len(index))
    index["copy"] = np.tile(np.arange(1, copies + 1), len(parents))
    index["id"] = index["parent_id"] + "-" + index["copy"].astype(str)
    return index[["row", "id", "parent_id", "copy", "label", "split"]]


def preview(
    prepared: Dataset, augmentation: Dataset, *, parents: Sequence[int], copies: int, images_per_class: int
) -> tuple[list[np.ndarray], list[str], int]:
    """Return the images of a preview, their titles, and the number of images per line.

    Each of the first 50 classes has a line: its first training images, each followed by at most 3 of its stored copies.

    Args:
        prepared: the originals.
        augmentation: their copies, in the order of draw_copies().
        parents: row numbers in prepared that were augmented, in this order.
        copies: per parent.
        images_per_class: originals in one line.
    """
    shown = min(copies, 3)
    labels = prepared.labels[np.asarray(parents, dtype=np.int64)]
    images: list[np.ndarray] = []
    titles: list[str] = []
    for label, name in enumerate(prepared.classes[:_PREVIEW_CLASSES]):
        members = np.flatnonzero(labels == label)[:images_per_class]
        for position in members:
            images.append(prepared.images[int(parents[position])])
            images.extend(augmentation.images[position * copies + copy] for copy in range(shown))
            titles.extend([name, *(f"copy {copy + 1}" for copy in range(shown))])
        for _ in range((images_per_class - len(members)) * (1 + shown)):  # fill up the line of a small class
            images.append(np.full(prepared.image_shape, 255, np.uint8))
            titles.append("")
    return images, titles, images_per_class * (1 + shown)


@dataclass(frozen=True)
class _Chunk:
    """One task: which rows of which dataset to copy, how, and into which file."""

    directory: Path
    digest: str
    rows: np.ndarray
    ids: tuple[str, ...]
    spec: str
    copies: int
    seed: int
    file: Path


def _write_copies(chunk: _Chunk) -> tuple[Path, int]:
    dataset = _dataset(chunk.directory, chunk.digest)
    pipeline = _pipeline(chunk.spec, dataset.image_shape, threading.get_ident())
    # One copy of the pixels per result, because a transform may work in place.
    rows = np.repeat(chunk.rows, chunk.copies)
    step = max(1, _READ_BYTES // int(np.prod(dataset.image_shape)))
    with write_errors(chunk.file):
        chunk.file.touch()
        with chunk.file.open("r+b", buffering=1 << 20) as file:
            for first in range(0, len(rows), step):
                for position, image in enumerate(dataset.images[rows[first : first + step]], first):
                    number, copy = divmod(position, chunk.copies)
                    image_id = chunk.ids[number]
                    result = augment_image(image, pipeline=pipeline, seed=chunk.seed, image_id=image_id, copy=copy + 1)
                    file.write(np.ascontiguousarray(result).data)
    return chunk.file, len(rows)


@lru_cache(maxsize=1)
def _dataset(directory: Path, digest: str) -> Dataset:  # noqa: ARG001 - a new digest is a new dataset
    return Dataset.open(directory)


@lru_cache(maxsize=64)
def _pipeline(spec: str, image_shape: tuple[int, int, int], thread: int) -> "Compose":  # noqa: ARG001
    """Return the pipeline of one thread of this process, where OpenCV then computes without threads of its own."""
    import cv2

    cv2.setNumThreads(0)  # there is a worker per core already
    return build(json.loads(spec), image_shape=image_shape)
