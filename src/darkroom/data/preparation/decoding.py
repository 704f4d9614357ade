"""From the bytes of an image file to pixels of one size: what a valid image is, and why another is rejected.

package.py, which reads the headers, decodes for serving and gives the same bytes; a test holds both against each
other.
"""

import ctypes
import functools
import hashlib
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np

from darkroom.data.raw.sources import content_id
from darkroom.deployable.package import FORMATS, read_header
from darkroom.errors import DataError

CHANNELS = {"grey": 1, "rgb": 3}


class Rejected(DataError):  # noqa: N818 - what it says about the image
    """This one image cannot be used; the message is the reason, without the name of the image."""


def decode(data: bytes, *, color: str, max_pixels: int) -> np.ndarray:
    """Return an encoded image at its own size: uint8 (H, W, C), C = 1 for color "grey", 3 (RGB) for "rgb".

    EXIF orientation is applied, transparency dropped, CMYK and palettes become the wanted color, 16 bits become 8. The
    name of a file plays no role. A JPEG that was damaged inside but ends as it should is decoded as far as it goes.

    Raises:
        Rejected: data is not an image in package.FORMATS, is truncated or animated, or has more than max_pixels.
    """
    if not data:
        raise Rejected("0 bytes: the file is empty")
    try:
        width, height, animated = read_header(data)
    except (struct.error, IndexError):
        raise Rejected(f"{_count(data)} not an image; expected {FORMATS}") from None
    if width * height > max_pixels:
        raise Rejected(f"{width}x{height} pixels exceed preprocess.max_image_pixels ({max_pixels})")
    if animated:
        raise Rejected("more than one frame (animated, or several pages); expected a still image")
    # Always the full image: IMREAD_REDUCED_*_2 was compared with it, both resized to the same size, on 130 photographs
    # with a shorter side of about 224 pixels. Where the half image is just large enough they differ by 1.7 of 255 on
    # average and 97 at most; where it is twice as large as needed, by 1.1 and 46. That is not exact enough.
    flag = cv2.IMREAD_GRAYSCALE if color == "grey" else cv2.IMREAD_COLOR_RGB
    pixels: np.ndarray | None = None
    with suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if pixels is None:
        raise Rejected(f"{_count(data)} not an image that can be decoded; the file is truncated or damaged")
    return pixels.reshape(*pixels.shape[:2], CHANNELS[color])  # grey comes without a channel


def convert(pixels: np.ndarray, *, color: str) -> np.ndarray:
    """Return pixels uint8 (H, W), (H, W, 1) or (H, W, 3) RGB as uint8 (H, W, C), C = 1 for "grey", 3 for "rgb".

    Raises:
        Rejected: another dtype or shape.
    """
    if pixels.dtype != np.uint8 or pixels.size == 0 or not (pixels.ndim == 2 or pixels.shape[2:] in ((1,), (3,))):
        raise Rejected(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 (H, W), (H, W, 1) or (H, W, 3)")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        grey = pixels.reshape(*pixels.shape[:2], 1)
        return grey if color == "grey" else np.repeat(grey, 3, axis=2)
    if color == "rgb":
        return pixels
    one_channel: np.ndarray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return one_channel.reshape(*pixels.shape[:2], 1)


def resize(image: np.ndarray, *, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """Return image (H, W, C) at size (height, width): area averages for sides that shrink, then linear for the others.

    INTER_AREA gives every source pixel its weight, so nothing aliases; on the way up it would repeat pixels in blocks,
    and as soon as one side grows OpenCV uses it for neither. There is no crop and no padding: the aspect ratio is not
    kept.

    Args:
        out: where to write the result, uint8 (height, width, C) and contiguous; None: a new array, or image itself.
    """
    smaller = (min(image.shape[0], size[0]), min(image.shape[1], size[1]))
    for wanted, how in ((smaller, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if image.shape[:2] != wanted:
            into = np.empty((*wanted, image.shape[2]), np.uint8) if out is None or wanted != size else out
            cv2.resize(image, wanted[::-1], into, interpolation=how)
            image = into
    if out is None or image is out:
        return image
    out[...] = image
    return out


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """Return one uint64 per image, uint8 (n, H, W, C); copies of one image differ in few of the 64 bits.

    The DCT hash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): brightness at
    32x32, its 64 lowest frequencies but the mean, each compared with their median. An image without structure (its
    brightness varies by less than one level) has no such hash: it gets one of its bytes, so that it resembles itself
    alone and not every other plain surface.
    """
    grey = np.empty((len(images), 32, 32), np.float32)
    for position, image in enumerate(images):
        bright = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image
        grey[position] = cv2.resize(bright, (32, 32), interpolation=cv2.INTER_AREA)
    low = np.ascontiguousarray((_DCT @ grey @ _DCT.T)[:, _LOWEST[0], _LOWEST[1]])
    bits = low > np.median(low, axis=1, keepdims=True)
    hashes = np.packbits(bits.reshape(-1)).view(">u8").astype(np.uint64)
    for plain in np.flatnonzero(grey.std(axis=(1, 2)) < 1):
        own = hashlib.blake2b(np.ascontiguousarray(images[plain]).data, digest_size=8).digest()
        hashes[plain] = int.from_bytes(own, "big")
    return hashes


class Batch(NamedTuple):
    """The result of read_batch for n items; the arrays have one entry per accepted item, in order.

    Attributes:
        images: uint8 (n_valid, H, W, C).
        ids: (n_valid, 32) uint8, sha256 of the file's bytes, or of shape and bytes of pixels.
        hashes: (n_valid,) uint64 perceptual hashes; zeros unless asked for.
        sizes: (n_valid, 2) int32, original height and width.
        sums: (n_valid, 2, C) int64, sum and sum of squares of each channel.
        rejected: (position among the n items, reason).
    """

    images: np.ndarray
    ids: np.ndarray
    hashes: np.ndarray
    sizes: np.ndarray
    sums: np.ndarray
    rejected: list[tuple[int, str]]


def read_batch(
    items: Sequence[bytes | np.ndarray], *, size: tuple[int, int], color: str, max_pixels: int, hashes: bool
) -> Batch:
    """Decode, convert, resize and measure items (encoded files, or uint8 pixels); see Batch."""
    _tune_this_process()
    n_channels = CHANNELS[color]
    images = np.empty((len(items), *size, n_channels), np.uint8)
    ids = np.empty((len(items), 32), np.uint8)
    sizes = np.empty((len(items), 2), np.int32)
    moments = np.empty((len(items), 2, n_channels))
    rejected: list[tuple[int, str]] = []
    n = 0
    for position, item in enumerate(items):
        try:
            if isinstance(item, np.ndarray):
                image = convert(item, color=color)
            else:
                image = decode(item, color=color, max_pixels=max_pixels)
        except Rejected as reason:
            rejected.append((position, str(reason)))
            continue
        resize(image, size=size, out=images[n])
        ids[n] = np.frombuffer(content_id(item), np.uint8)
        sizes[n] = image.shape[:2]
        # 20 times as fast as numpy, and given back as exact sums below.
        cv2.meanStdDev(images[n], moments[n, 0], moments[n, 1])
        n += 1
    found = perceptual_hashes(images[:n]) if hashes else np.zeros(n, np.uint64)
    sums = _exact_sums(moments[:n], n_pixels=size[0] * size[1])
    return Batch(images[:n], ids[:n], found, sizes[:n], sums, rejected)


def _exact_sums(moments: np.ndarray, *, n_pixels: int) -> np.ndarray:
    # From (n, 2, C) means and deviations. Doubles carry 15 digits, these sums have at most 13 (8192x8192 pixels):
    # rounding gives back the integers; added up, they do not depend on the order of the images.
    mean, std = moments[:, 0], moments[:, 1]
    sums: np.ndarray = np.rint(np.stack([mean, std**2 + mean**2], axis=1) * n_pixels)
    return sums.astype(np.int64)


@functools.cache
def _tune_this_process() -> None:
    cv2.setNumThreads(1)  # the batches are what runs in parallel
    cv2.utils.logging.setLogLevel(0)
    # glibc gives blocks of more than 128 KB back to the system at once, and every image then costs 50 fresh pages:
    # 310 instead of 225 us for a photograph of 270x230 pixels. Other C libraries have no mallopt, and need none.
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 128 << 20)  # M_TRIM_THRESHOLD


def _count(data: bytes) -> str:
    return "1 byte is" if len(data) == 1 else f"{len(data)} bytes are"


def _dct_matrix(n_rows: int, n: int) -> np.ndarray:
    frequency, place = np.mgrid[:n_rows, :n]
    matrix: np.ndarray = np.cos(np.pi / n * (place + 0.5) * frequency)
    return matrix.astype(np.float32)


# The 64 pairs of frequencies with the smallest sums, without the mean (0, 0); the largest sum among them is 10.
_PAIRS = sorted(((i, j) for i in range(11) for j in range(11) if i + j > 0), key=lambda pair: (sum(pair), pair))[:64]
_LOWEST = tuple(np.array(_PAIRS).T)
_DCT = _dct_matrix(11, 32)
