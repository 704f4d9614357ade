"""Explain an answer in a worker: the image with its heat map."""

import base64
import signal
from typing import Any

import cv2
import numpy as np

from darkroom.explanation.maps import Explainer, overlaid
from darkroom.registry.snapshot import Version
from darkroom.registry.versions import fetch
from darkroom.serving.messages import ABANDONED


class AbandonedError(Exception):
    """Nobody waits any more."""


class Explaining:
    """Explains the answers of a version; ends between two inferences after the signal ABANDONED.

    Args:
        package: of the version.
        threads: CPU threads of one inference.

    Attributes:
        is_abandoned: whether that came; to be reset with the next image.
    """

    def __init__(self, version: Version, package: Any, *, threads: int) -> None:
        self.is_abandoned = False
        signal.signal(ABANDONED, self._abandon)
        self._classes = package.classes
        self._answers = package.probabilities
        self._explain = Explainer(fetch(version), self, threads=threads)
        self._explain(
            np.zeros((1, *package.image_shape), np.uint8), [0], n_masks=2
        )  # so that it fails here, if it does

    def __call__(self, pixels: np.ndarray, label: str) -> dict[str, str]:
        """Return the method and a `map`, a PNG as data: URI in which bright places support the label.

        Args:
            pixels: uint8 (H, W, C), as the network takes them.

        Raises:
            AbandonedError: nobody waits for it any more.
        """
        (heat,) = self._explain(pixels[np.newaxis], [self._classes.index(label)])
        content = cv2.imencode(".png", overlaid(pixels, heat)[:, :, ::-1])[1].tobytes()
        return {"method": self._explain.method, "map": f"data:image/png;base64,{base64.b64encode(content).decode()}"}

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return those of the package, float32 (n, classes).

        Raises:
            AbandonedError: nobody waits for them any more.
        """
        if self.is_abandoned:
            raise AbandonedError("the client has left")
        return np.asarray(self._answers(images))

    def _abandon(self, *_: Any) -> None:
        self.is_abandoned = True
