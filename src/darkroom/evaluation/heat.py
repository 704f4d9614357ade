"""Heat maps of the winner's worst errors, and a check whether one place at the border decides many answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.deployable.package import Package
from darkroom.evaluation.candidates import Answer, Candidate, data_uri
from darkroom.explanation.maps import EXACT, Explainer, Spot, common_spot, overlaid

N_MASKS = 200
# Number of images whose maps are computed: exact maps cost one pass of the network, others N_MASKS.
MOST_ERRORS = {True: 64, False: 8}
MOST_RIGHT = {True: 64, False: 16}


class Heat(NamedTuple):
    """Heat maps for the report.

    Attributes:
        method: how the maps were made.
        errors: data: URIs for the first of the worst errors, the map for the predicted class over the image.
        spot: a place at the border on which correct answers rest, None if there is none.
        n_right: number of correct answers that were examined for it.
    """

    method: str
    errors: list[str]
    spot: Spot | None
    n_right: int


def heat_of(path: Path, candidate: Candidate, dataset: Dataset, worst: Sequence[Answer]) -> Heat:
    """Return the heat maps of a candidate.

    Args:
        path: its model.onnx.
        candidate: scored on the test images of dataset.
        worst: its worst errors.
    """
    explain = Explainer(path, Package.load(path))
    is_exact = explain.method == EXACT
    wrong = worst[: MOST_ERRORS[is_exact]]
    rows, predicted = dataset.rows("test"), candidate.probabilities.argmax(axis=1)
    right = np.flatnonzero(predicted == dataset.labels[rows])
    right = right[np.linspace(0, len(right) - 1, min(len(right), MOST_RIGHT[is_exact]), dtype=int)]
    images = np.concatenate([np.empty((0, *dataset.image_shape), np.uint8), *(one.image[None] for one in wrong)])
    images = np.concatenate([images, dataset.images[rows[right]]])
    if not len(images):
        return Heat(explain.method, [], None, 0)
    maps = explain(
        images, [dataset.classes.index(one.predicted) for one in wrong] + predicted[right].tolist(), n_masks=N_MASKS
    )
    shown = [overlaid(one.image, heat) for one, heat in zip(wrong, maps, strict=False)]
    uris = [data_uri(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()) for image in shown]
    return Heat(explain.method, uris, common_spot(maps[len(wrong) :]), len(right))
