"""Explain an answer in a worker: the image with its heat map."""

import base64
from typing import Any

import cv2
import numpy as np

from darkroom.explanation.maps import Explainer, overlaid
from darkroom.registry.snapshot import Version
from darkroom.registry.versions import fetch


class Explaining:
    """Explains the answers of a version.

    Args:
        package: of the version.
        threads: CPU threads of one inference.
    """

    def __init__(self, version: Version, package: Any, *, threads: int) -> None:
        self._classes = package.classes
        self._explain = Explainer(fetch(version), package, threads=threads)
        self._explain(
            np.zeros((1, *package.image_shape), np.uint8), [0], n_masks=2
        )  # so that it fails here, if it does

    def __call__(self, pixels: np.ndarray, label: str) -> dict[str, str]:
        """Return the method and a `map`, a PNG as data: URI in which bright places support the label.

        Args:
            pixels: uint8 (H, W, C), as the network takes them.
        """
        (heat,) = self._explain(pixels[np.newaxis], [self._classes.index(label)])
        content = cv2.imencode(".png", overlaid(pixels, heat)[:, :, ::-1])[1].tobytes()
        return {"method": self._explain.method, "map": f"data:image/png;base64,{base64.b64encode(content).decode()}"}
