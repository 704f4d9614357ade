"""The images of data/raw and data/incoming as one stream, and the originals of prepared images."""

import hashlib
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.data.raw.layouts import RawImage, Unread, read_folder, read_images
from darkroom.errors import DataError
from darkroom.project.text import shown

PREFIX = "incoming/"  # of the names of new images


class Origin(NamedTuple):
    """Where a prepared image came from: its name, whether it is incoming, and its content_id in hex."""

    source: str
    incoming: bool
    id: str


def read_sources(
    raw: Path,
    incoming: Path,
    *,
    max_archive_bytes: int,
    max_image_bytes: int,
    only: Collection[tuple[str, bool]] | None = None,
) -> Iterator[tuple[RawImage, bool]]:
    """Yield the images of data/raw, then those of data/incoming, each with whether it is incoming.

    Args:
        max_archive_bytes, max_image_bytes: see layouts.read_images.
        only: the images to yield, by name and whether incoming; None: all.

    Raises:
        DataError: a source is damaged, data/incoming holds a stray file, or classes of the dataset in another class.
    """
    old_names = new_names = None
    if only is not None:
        old_names = {name for name, is_new in only if not is_new}
        new_names = {name.removeprefix(PREFIX) for name, is_new in only if is_new}
    found = read_folder(incoming, max_image_bytes=max_image_bytes, only=new_names) if incoming.is_dir() else iter(())
    known: set[str] = set()
    # Lists and checks the directory before anything is decoded.
    first = list(islice(found, 1))
    for image in read_images(raw, max_archive_bytes=max_archive_bytes, max_image_bytes=max_image_bytes, only=old_names):
        known.add(image.label)
        yield image, False
    for image in chain(first, found):
        inside = next((part for part in image.name.split("/")[1:-1] if part in known), None)
        if inside and image.label not in known:
            raise DataError(
                f"{incoming}: {shown(image.label)} would be a new class, but holds the class {shown(inside)} of the "
                f"dataset; expected {incoming}/<class>/<image>"
            )
        yield replace(image, name=f"{PREFIX}{image.name}"), True


def read_originals(raw: Path, incoming: Path, origins: Sequence[Origin]) -> Iterator[tuple[int, bytes | np.ndarray]]:
    """Yield (position in `origins`, the encoded file or its pixels) of prepared images, in the order of their sources.

    There are no size limits, because `preprocess` accepted the same bytes.

    Raises:
        DataError: a source is damaged, or an original is gone or has changed.
    """
    missing = {(origin.source, origin.incoming): position for position, origin in enumerate(origins)}
    limits = {"max_archive_bytes": sys.maxsize, "max_image_bytes": sys.maxsize}
    for image, is_new in read_sources(raw, incoming, only=frozenset(missing), **limits):
        position = missing.pop((image.name, is_new))
        if isinstance(image.data, Unread) or content_id(image.data).hex() != origins[position].id:
            raise DataError(
                f"{_path(raw, incoming, origins[position])} has changed since it was prepared; restore it or run "
                "`dvc repro preprocess`"
            )
        yield position, image.data
    if missing:
        first = origins[min(missing.values())]
        more = f" (and {len(missing) - 1} more of {len(origins)} originals)" if len(missing) > 1 else ""
        raise DataError(
            f"{_path(raw, incoming, first)} is gone{more}; restore it, for example with `dvc pull`, or run "
            "`dvc repro preprocess`"
        )


def content_id(item: bytes | np.ndarray) -> bytes:
    """Return the sha256 of a file's bytes, or of the shape and bytes of pixels: equal content has equal ids."""
    if isinstance(item, bytes):
        return hashlib.sha256(item).digest()
    return hashlib.sha256(f"{item.dtype} {item.shape}\n".encode() + item.tobytes()).digest()


def _path(raw: Path, incoming: Path, origin: Origin) -> str:
    folder, name = (incoming, origin.source.removeprefix(PREFIX)) if origin.incoming else (raw, origin.source)
    return f"{folder}: {shown(name)}"
