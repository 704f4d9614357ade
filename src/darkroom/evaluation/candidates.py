"""The candidates of an evaluation, and which of them wins."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np


def winner(val_accuracy: Mapping[str, float]) -> str:
    """Return the name of the candidate with the best validation accuracy; ties: the first name.

    Not the best on the test images: the best of several scores is no longer an unbiased estimate of one of them.
    """
    return min(val_accuracy, key=lambda name: (-val_accuracy[name], name))


GALLERY_SIDE = 160  # pixels; larger images are shrunk to it, smaller ones enlarged by the browser


@dataclass(frozen=True)
class Candidate:
    """One model and what the test images showed about it.

    Attributes:
        run: run.json of its training.
        history: the columns of its history.csv.
        metrics: its entry in evaluation.json.
        probabilities: (n, classes), float32, for the test images.
    """

    name: str
    run: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    metrics: Mapping[str, Any]
    probabilities: np.ndarray


@dataclass(frozen=True)
class WorstError:
    """A wrong answer to show: its picture (uint8 (H, W, C)), where it came from, and what was said about it."""

    image: np.ndarray
    source: str
    label: str
    predicted: str
    confidence: float

    @property
    def uri(self) -> str:
        """Its picture as a data: URI."""
        height, width = self.image.shape[:2]
        scale = GALLERY_SIDE / max(height, width)
        image = self.image[:, :, ::-1] if self.image.shape[2] == 3 else self.image  # OpenCV writes BGR
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return data_uri(cv2.imencode(".png", image)[1].tobytes())


def data_uri(png: bytes) -> str:
    """Return a PNG as a data: URI, to stand in a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
