"""Heat maps of the parts of an image that support an answer: exact if the graph allows it, else by covering parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from darkroom.explanation import activation, masking

N_MASKS = 400
SEED = 0  # of the masks: the same image has the same map
EXACT, BY_MASKS = "class activation map", "RISE"
SHOWN_SIDE = 256  # pixels; smaller images are enlarged to it
HEAT = 0.65  # weight of the colour where the map is highest
CELLS = 8  # per edge, when many maps are compared
CONCENTRATED = 0.3  # share of all heat in 2 x 2 cells at the border, 1/16 of the area


class Explainer:
    """Heat maps of one model.

    Args:
        path: of model.onnx.
        package: its Package.
        threads: CPU threads of an exact map; None: every core that this process may use.

    Attributes:
        method: EXACT or BY_MASKS.
    """

    def __init__(self, path: Path, package: Any, *, threads: int | None = None) -> None:
        self._package = package
        self._exact = activation.opened(path, threads=threads)
        self.method = EXACT if self._exact else BY_MASKS

    def __call__(self, images: np.ndarray, labels: Sequence[int], *, n_masks: int = N_MASKS) -> np.ndarray:
        """Return a map of each image, float32 (n, H, W): positive where the image supports the class, at most 1.

        Args:
            images: uint8 (n, H, W, C), as the network takes them.
            labels: (n,), the class of each map.
            n_masks: for maps that are not exact; more masks give smoother maps and take longer.
        """
        height, width = images.shape[1:3]
        if self._exact:
            found = self._exact(images, np.asarray(labels, int))
            found = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in found])
        else:
            answers, plan = self._package.probabilities, {"n_masks": n_masks, "seed": SEED}
            pairs = zip(images, labels, strict=True)
            found = np.stack([masking.rise(answers, image, label, **plan) for image, label in pairs])
        return np.asarray(found / np.maximum(found.max(axis=(1, 2), keepdims=True), 1e-9), np.float32)


def overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image with its map in colour: uint8 RGB, at least SHOWN_SIDE pixels wide or high.

    Args:
        image: uint8 (H, W, C).
        heat: its map, (H, W).
    """
    grey = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    factor = max(1, -(-SHOWN_SIDE // max(image.shape[:2])))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    large = cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST)
    weight = np.clip(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR), 0, 1)[:, :, None]
    colours = cv2.applyColorMap(np.uint8(255 * weight[:, :, 0]), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return np.asarray(np.rint((1 - HEAT * weight) * large + HEAT * weight * colours), np.uint8)


class Spot(NamedTuple):
    """A place at the border on which many answers rest: its share of all heat, and where it is."""

    share: float
    where: str


def common_spot(maps: np.ndarray) -> Spot | None:
    """Return the place at the border with much of the heat of many images, perhaps a marker or a date; else None.

    Args:
        maps: (n, H, W), of correctly classified images.
    """
    if len(maps) == 0:
        return None
    positive = np.clip(maps, 0, None)
    shares = positive / np.maximum(positive.sum(axis=(1, 2), keepdims=True), 1e-9)
    mean = shares.mean(axis=0)
    cells = cv2.resize(mean, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    if not cells.any():  # no positive heat in any map
        return None
    cells /= cells.sum()
    around = cv2.boxFilter(cells, -1, (2, 2), normalize=False, borderType=cv2.BORDER_CONSTANT, anchor=(0, 0))
    row, column = np.unravel_index(int(around[:-1, :-1].argmax()), (CELLS - 1, CELLS - 1))
    at_border = row in (0, CELLS - 2) or column in (0, CELLS - 2)
    if not at_border or around[row, column] < CONCENTRATED:
        return None
    high = "upper" if row < CELLS // 3 else "lower" if row > CELLS // 2 else "middle"
    wide = "left" if column < CELLS // 3 else "right" if column > CELLS // 2 else "middle"
    return Spot(float(around[row, column]), high if high == wide else f"{high} {wide}")
