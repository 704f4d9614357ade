"""Small copies of all images, made in one pass, and findings that need no model."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from darkroom.audit.suspects import main_directions
from darkroom.data.arrays.dataset import Images
from darkroom.data.preparation.decoding import perceptual_hashes
from darkroom.data.preparation.near_duplicates import near_duplicate_components

EDGE = 32  # pixels of the small copies
CHUNK = 512  # images in memory at a time, per thread
DARK, BRIGHT = 32, 223  # of 255: all pixels of a dark image are below the first, of a bright image above the second
BLANK = 4.0  # standard deviation in levels
EXTREME = 0.01  # share of pixels that may be exceptions to DARK and BRIGHT
TINY = 0.5  # of the edge of the prepared images, and of the median edge of the originals
SAME = 8.0  # mean difference in levels of two copies of one image
WAVES = 1024  # random Fourier features
PIXEL_DIRECTIONS = 64


def small_copies(images: Images | np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return copies of at most EDGE x EDGE pixels: uint8 (n, h, w, C)."""
    height, width, n_channels = images.shape[1:]
    size = (min(width, EDGE), min(height, EDGE))
    copies = np.empty((len(rows), size[1], size[0], n_channels), np.uint8)

    def fill(start: int) -> None:
        part = rows[start : start + CHUNK]
        for position, image in enumerate(images[part], start):
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            copies[position] = small.reshape(copies.shape[1:])

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, len(rows), CHUNK)))
    return copies


def unusable(copies: np.ndarray, sizes: np.ndarray, *, image_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return a mask of the affected images for every reason: bool (n,).

    Args:
        copies: returned by small_copies.
        sizes: int (n, 2), height and width of the originals.
        image_shape: of the prepared images.
    """
    grey = copies.reshape(len(copies), -1, copies.shape[3]).mean(axis=2, dtype=np.float32)
    n_extreme = max(1, round(EXTREME * grey.shape[1]))
    ordered = np.partition(grey, (n_extreme - 1, grey.shape[1] - n_extreme), axis=1)
    blank = copies.reshape(len(copies), -1, copies.shape[3]).std(axis=1, dtype=np.float32).max(axis=1) < BLANK
    shorter = sizes.min(axis=1)
    return {
        "blank": blank,
        "dark": ~blank & (ordered[:, -n_extreme] < DARK),
        "bright": ~blank & (ordered[:, n_extreme - 1] > BRIGHT),
        "tiny": (shorter < TINY * min(image_shape[:2])) & (shorter < TINY * np.median(shorter)),
    }


def twins_with_two_labels(copies: np.ndarray, labels: np.ndarray, *, bits: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of images (positions) that are copies of one image but have different labels.

    Candidates have similar perceptual hashes, as in preprocess; then pixels are compared, because different small
    images often have similar hashes.

    Args:
        copies: returned by small_copies.
        labels: (n,) int.
        bits: see preprocess.near_duplicate_bits.
    """
    components = near_duplicate_components(perceptual_hashes(copies), bits=bits)
    order = np.argsort(components, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(components[order])) + 1):
        if len(np.unique(labels[members])) > 1:
            pixels = copies[members].reshape(len(members), -1).astype(np.float32)
            for place, one in enumerate(members[:-1].tolist(), 1):
                differences = np.abs(pixels[place:] - pixels[place - 1]).mean(axis=1)
                others = members[place:][(differences < SAME) & (labels[members[place:]] != labels[one])]
                yield from ((one, other) for other in others.tolist())


def waves(copies: np.ndarray, *, seed: int) -> np.ndarray:
    """Return random Fourier features of pixels (Rahimi and Recht 2007): float32 (n, WAVES).

    A linear classifier of them approximates a kernel classifier of the pixels; used without a pretrained network.
    """
    points = main_directions(copies.reshape(len(copies), -1).astype(np.float32) / 255, n=PIXEL_DIRECTIONS)
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, len(points), (2, 2000))
    width = float(np.median(np.linalg.norm(points[pairs[0]] - points[pairs[1]], axis=1)))
    frequencies = rng.normal(0, 2 / max(width, 1e-6), (points.shape[1], WAVES)).astype(np.float32)
    return np.asarray(np.cos(points @ frequencies + rng.uniform(0, 2 * np.pi, WAVES).astype(np.float32)))
