"""Read the header and the identity of every image from a few kilobytes of each."""

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from darkroom.data.raw.listing import Listing
from darkroom.data.raw.names import OFFICIAL
from darkroom.data.raw.placement import Placed
from darkroom.deployable.headers import UNREADABLE, checked_header, read_header
from darkroom.deployable.plain_formats import Header

HEAD_BYTES = 1 << 16  # of a file; most photographs from the web are smaller, and the headers of others fit


class Seen(NamedTuple):
    """An image with its header.

    Attributes:
        image: its number is a position in the listing.
        n_bytes: of its file.
        id: equal for equal bytes that were read; the sha256 of a file of up to HEAD_BYTES.
        header: None if it needs the whole file, or is unusable.
    """

    image: Placed
    n_bytes: int
    id: bytes
    header: Header | None


def read_headers(listing: Listing, placed: Sequence[Placed], *, max_pixels: int, max_image_bytes: int) -> list[Seen]:
    """Return all images with their headers, those of train first."""
    found: dict[int, Seen] = {}
    for image in sorted(placed, key=lambda image: image.number):  # a compressed tar can only be read forward
        n_bytes = 0 if (unread := listing.unread(image.number)) else listing.n_bytes(image.number)
        if unread or n_bytes > max_image_bytes:
            found[image.number] = Seen(image, n_bytes, b"%032d" % image.number, None)
            continue
        head = _head(listing, image.number)
        header = _header(head, is_whole=len(head) == n_bytes, max_pixels=max_pixels)
        digest = hashlib.sha256(head if len(head) == n_bytes else head + str(n_bytes).encode()).digest()
        found[image.number] = Seen(image, n_bytes, digest, header)
    n_alike = Counter(seen.id for seen in found.values() if seen.n_bytes > HEAD_BYTES)
    for number, seen in found.items():
        if n_alike[seen.id] > 1:
            found[number] = seen._replace(id=hashlib.sha256(listing.read(number)).digest())
    return sorted(
        (found[image.number] for image in placed), key=lambda seen: OFFICIAL.index(seen.image.split or "train")
    )


def _head(listing: Listing, number: int) -> bytes:
    with listing.open(number) as file:
        return file.read(HEAD_BYTES)


def _header(head: bytes, *, is_whole: bool, max_pixels: int) -> Header | None:
    """Return the header of an image that seems usable, else None."""
    try:
        header = checked_header(head, max_pixels=max_pixels) if is_whole else read_header(head)
    except UNREADABLE:
        return None
    if header.animated or header.width * header.height > max_pixels:
        return None
    if header.kind == "HEIC" and importlib.util.find_spec("pillow_heif") is None:
        return None
    return header
