"""A real, tiny classifier as ONNX, built without TensorFlow: softmax(pixels @ weights)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_model(
    path: Path,
    *,
    classes: list[str],
    image_shape: tuple[int, int, int],
    weights: np.ndarray | None = None,
    metadata: dict[str, Any] | None = None,
    input_type: int = TensorProto.UINT8,
    strangeness: np.ndarray | None = None,
) -> Path:
    """Write a classifier of uint8 (n, *image_shape) with weights (pixels, classes) and return path.

    `metadata` is merged into the darkroom metadata; None for a key takes it away. With strangeness, the weights
    (pixels,) of a sum of the pixels, this sum is a second output.
    """
    n_pixels = int(np.prod(image_shape))
    if weights is None:
        weights = np.random.default_rng(0).normal(0, 0.002, (n_pixels, len(classes)))
    said = {
        "classes": classes,
        "image_shape": list(image_shape),
        "color": "grey" if image_shape[2] == 1 else "rgb",
        "dataset": "tiny",
        **(metadata or {}),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(classes)])]
    constants = {"shape": np.array([-1, n_pixels], np.int64), "weights": weights.astype(np.float32)}
    if strangeness is not None:
        constants["of strangeness"] = strangeness.astype(np.float32)
        nodes.append(helper.make_node("MatMul", ["flat", "of strangeness"], ["strangeness"]))
        outputs.append(helper.make_tensor_value_info("strangeness", TensorProto.FLOAT, ["n"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", input_type, ["n", *image_shape])],
        outputs,
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"darkroom": json.dumps({k: v for k, v in said.items() if v is not None})})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
