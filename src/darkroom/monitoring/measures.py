"""Measure the appearance of an image: brightness, contrast, sharpness, size."""

import cv2
import numpy as np

from darkroom.deployable.headers import UNREADABLE, read_header

FEATURES = ("brightness", "contrast", "sharpness")


def measures(data: bytes, image: np.ndarray) -> dict[str, float | None]:
    """Return the measures of an image for a row: {width, height, **features(image)}.

    Args:
        data: of the image file. Width and height are None if its header is unknown: a registered package has its own
            decoder, which may support more formats.
        image: as the network takes it; see features.
    """
    try:
        header = read_header(data)
    except UNREADABLE:
        return {"width": None, "height": None, **features(image)}
    return {"width": header.width, "height": header.height, **features(image)}


def features(image: np.ndarray) -> dict[str, float]:
    """Return the measures of an image, uint8 (H, W, C) with C = 1 or 3 (RGB), as the network takes it.

    brightness: mean of all values, in [0, 1].
    contrast: their standard deviation, in [0, 0.5].
    sharpness: variance of the Laplacian of the grey image, in squared grey levels (Pech-Pacheco et al. 2000); it
        depends on the size of the image, so only images of one size are comparable.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image
    mean, deviation = cv2.meanStdDev(image.reshape(-1))
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    return {
        "brightness": float(mean[0, 0]) / 255,
        "contrast": float(deviation[0, 0]) / 255,
        "sharpness": float(edges[0, 0]) ** 2,
    }
