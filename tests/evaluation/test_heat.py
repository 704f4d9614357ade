"""The report's explanations of the winner."""

import numpy as np
import pandas as pd

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.deployable.package import Package
from darkroom.evaluation.candidates import Candidate
from darkroom.evaluation.heat import heat_of
from tests.support.onnx_model import write_model

SHAPE = (16, 16, 1)


def test_right_answers_that_rest_on_a_marker_are_pointed_out(tmp_path):
    labels = np.arange(40) % 2
    images = np.random.default_rng(1).integers(0, 100, (40, *SHAPE), dtype=np.uint8)
    images[:, 1:4, 12:15] = 255 * labels[:, None, None, None]
    index = pd.DataFrame({"row": range(40), "id": [f"{row:064x}" for row in range(40)], "split": "test"})
    index["label"], index["group"], index["source"] = np.take(["plain", "marked"], labels), index["id"], index["id"]
    index["height"], index["width"], index["incoming"] = 16, 16, False
    with DatasetWriter(tmp_path / "prepared", image_shape=SHAPE, shard_bytes=1 << 20) as writer:
        writer.append(images)
        writer.finish(index=index, manifest={"dataset": "d", "classes": ["plain", "marked"], "color": "grey"})
    weights = np.zeros((16, 16, 2), np.float32)
    weights[1:4, 12:15] = (-0.002, 0.002)
    onnx = write_model(
        tmp_path / "m.onnx", classes=["plain", "marked"], image_shape=SHAPE, weights=weights.reshape(256, 2)
    )
    probabilities = Package.load(onnx).probabilities(images)
    candidate = Candidate("cnn", {}, {}, {}, probabilities, probabilities[:0])
    heat = heat_of(onnx, candidate, Dataset.open(tmp_path / "prepared"), [])
    assert heat.spot is not None
    assert (heat.spot.where, heat.n_right) == ("upper right", 16)
