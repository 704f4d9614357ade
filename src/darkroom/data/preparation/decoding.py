"""Decode image files to rows of pixels, measure them, and reject unusable ones.

deployable/images.py decodes and resizes, for training and serving.
"""

import ctypes
import functools
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np

from darkroom.data.raw.sources import content_id
from darkroom.deployable import images
from darkroom.deployable.headers import TooManyPixelsError
from darkroom.deployable.images import Form
from darkroom.errors import DataError


class Rejected(DataError):  # noqa: N818 - what it says about the image
    """An image cannot be used; the message is the reason, without the name of the image."""


def prepare(
    item: bytes | np.ndarray, form: Form, *, max_pixels: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the result of images.prepare, which serving also uses.

    Raises:
        Rejected: images.prepare raised a ValueError; the message also names the setting to change, if there is one.
    """
    try:
        return images.prepare(item, form, max_pixels=max_pixels, out=out)
    except TooManyPixelsError as error:
        raise Rejected(f"{error} (preprocess.max_image_pixels)") from None
    except images.AboveWhiteError as error:
        raise Rejected(f"{error}; raise preprocess.white_level") from None
    except ValueError as error:
        raise Rejected(str(error)) from None


def perceptual_hashes(rows: np.ndarray) -> np.ndarray:
    """Return one uint64 per image of rows, uint8 (n, H, W, C); copies of one image differ in few of the 64 bits.

    The DCT hash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): brightness at
    32x32, its 64 lowest frequencies without the mean, each compared with their median. An image without structure (its
    brightness varies by less than one level) gets a hash of its bytes instead, so that plain images do not all resemble
    each other.
    """
    grey = np.empty((len(rows), 32, 32), np.float32)
    for position, image in enumerate(rows):
        bright = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image
        grey[position] = cv2.resize(bright, (32, 32), interpolation=cv2.INTER_AREA)
    low = np.ascontiguousarray((_DCT @ grey @ _DCT.T)[:, _LOWEST[0], _LOWEST[1]])
    bits = low > np.median(low, axis=1, keepdims=True)
    hashes = np.packbits(bits.reshape(-1)).view(">u8").astype(np.uint64)
    for plain in np.flatnonzero(grey.std(axis=(1, 2)) < 1):
        own = hashlib.blake2b(np.ascontiguousarray(rows[plain]).data, digest_size=8).digest()
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


def read_batch(items: Sequence[bytes | np.ndarray], *, form: Form, max_pixels: int, hashes: bool) -> Batch:
    """Decode, convert, resize and measure items (encoded files, or uint8 pixels); see Batch."""
    _tune_this_process()
    height, width, n_channels = form.image_shape
    rows = np.empty((len(items), height, width, n_channels), np.uint8)
    ids = np.empty((len(items), 32), np.uint8)
    sizes = np.empty((len(items), 2), np.int32)
    moments = np.empty((len(items), 2, n_channels))
    rejected: list[tuple[int, str]] = []
    n = 0
    for position, item in enumerate(items):
        try:
            _, sizes[n] = prepare(item, form, max_pixels=max_pixels, out=rows[n])
        except Rejected as reason:
            rejected.append((position, str(reason)))
            continue
        ids[n] = np.frombuffer(content_id(item), np.uint8)
        # 20 times as fast as numpy; _exact_sums restores exact sums.
        cv2.meanStdDev(rows[n], moments[n, 0], moments[n, 1])
        n += 1
    found = perceptual_hashes(rows[:n]) if hashes else np.zeros(n, np.uint64)
    sums = _exact_sums(moments[:n], n_pixels=height * width)
    return Batch(rows[:n], ids[:n], found, sizes[:n], sums, rejected)


def _exact_sums(moments: np.ndarray, *, n_pixels: int) -> np.ndarray:
    # From (n, 2, C) means and deviations. Doubles have 15 digits, these sums at most 13 (8192x8192 pixels), so rounding
    # restores the integers, whose total does not depend on the order of the images.
    mean, std = moments[:, 0], moments[:, 1]
    sums: np.ndarray = np.rint(np.stack([mean, std**2 + mean**2], axis=1) * n_pixels)
    return sums.astype(np.int64)


@functools.cache
def _tune_this_process() -> None:
    cv2.setNumThreads(1)  # batches already run in parallel
    cv2.utils.logging.setLogLevel(0)
    # glibc returns blocks of more than 128 KB to the system at once, so every image needs 50 new pages: 310 instead of
    # 225 us for a photograph of 270x230 pixels. Other C libraries have no mallopt and do not need it.
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 128 << 20)  # M_TRIM_THRESHOLD


def _dct_matrix(n_rows: int, n: int) -> np.ndarray:
    frequency, place = np.mgrid[:n_rows, :n]
    matrix: np.ndarray = np.cos(np.pi / n * (place + 0.5) * frequency)
    return matrix.astype(np.float32)


# The 64 pairs of frequencies with the smallest sums, without the mean (0, 0); the largest sum among them is 10.
_PAIRS = sorted(((i, j) for i in range(11) for j in range(11) if i + j > 0), key=lambda pair: (sum(pair), pair))[:64]
_LOWEST = tuple(np.array(_PAIRS).T)
_DCT = _dct_matrix(11, 32)
