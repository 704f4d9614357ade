"""Maps of models whose reasons are known."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from darkroom.deployable.package import Package
from darkroom.explanation import activation, maps, masking
from darkroom.training.linear_head import solve
from tests.support.onnx_model import write_model

SIDE, MARK = 24, 4


def marked(n: int, *, seed: int, at: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return noise uint8 (n, SIDE, SIDE, 1), of which every other image has a white square; labels; its corners."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (n, SIDE, SIDE, 1), dtype=np.uint8)
    corners = rng.integers(0, SIDE - MARK, (n, 2)) if at is None else np.tile(at, (n, 1))
    for image, (top, left) in zip(images[1::2], corners[1::2], strict=True):
        image[top : top + MARK, left : left + MARK] = 255
    return images, np.arange(n) % 2, corners


def write_pooling_model(path, *, reduce: bool = False, divisor_of: str | None = None):
    """Write a model that sees bright squares and ends in average pooling and a linear layer.

    The averages may be divided by the roots of a tensor: of themselves, as in a solved head, or of another.
    """
    filters = np.stack([np.full((1, MARK, MARK), 1 / MARK**2), np.zeros((1, MARK, MARK))]).astype(np.float32)
    arrays = {
        "filters": filters,
        "floor": np.array([-220, 1], np.float32),
        "weights": np.array([[-40, 50], [0.3, 0.1]], np.float32),
        "bias": np.array([0.4, -0.2], np.float32),
        "temperature": np.array(0.5, np.float32),
        "offset": np.array(0.01, np.float32),
        "half": np.array(0.5, np.float32),
    }
    pooling = [helper.make_node("GlobalAveragePool", ["seen"], ["pooled"])]
    if reduce:
        pooling = [helper.make_node("ReduceMean", ["seen"], ["pooled"], axes=[2, 3], keepdims=1)]
    divided = []
    if divisor_of:
        divided = [
            helper.make_node("Abs", [divisor_of], ["absolute"]),
            helper.make_node("Add", ["absolute", "offset"], ["above"]),
            helper.make_node("Pow", ["above", "half"], ["divisor"]),
            helper.make_node("Div", ["flat", "divisor"], ["divided"]),
        ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "filters", "floor"], ["filtered"]),
        helper.make_node("Relu", ["filtered"], ["seen"]),
        *pooling,
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        *divided,
        helper.make_node("MatMul", ["divided" if divided else "flat", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("Mul", ["logits", "temperature"], ["tempered"]),
        helper.make_node("Softmax", ["tempered"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "pooling",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    about = {"classes": ["plain", "marked"], "image_shape": [SIDE, SIDE, 1], "color": "grey"}
    helper.set_model_props(model, {"darkroom": json.dumps(about)})
    onnx.save(model, path)
    return path


def hits(found: np.ndarray, corners: np.ndarray, *, slack: int) -> float:
    """Return the share of maps whose highest place lies in the square, or so many pixels beside it."""
    places = np.array([np.unravel_index(one.argmax(), one.shape) for one in found])
    inside = (places >= corners - slack) & (places < corners + MARK + slack)
    return float(inside.all(axis=1).mean())


def test_a_division_by_something_else_is_not_taken_for_roots(tmp_path):
    path = write_pooling_model(tmp_path / "model.onnx", divisor_of="weights")
    assert activation.opened(path) is None


@pytest.mark.parametrize("changes", [{}, {"reduce": True}, {"divisor_of": "flat"}], ids=str)
def test_where_the_graph_ends_in_pooling_the_map_is_exact(tmp_path, changes):
    path = write_pooling_model(tmp_path / "model.onnx", **changes)
    package = Package.load(path)
    images, labels, corners = marked(40, seed=1)
    assert (package.probabilities(images).argmax(axis=1) == labels).all()
    explain = maps.Explainer(path, package)
    assert explain.method == maps.EXACT
    marks = images[1::2]
    assert hits(explain(marks, [1] * len(marks)), corners[1::2], slack=2) == 1
    exact = activation.opened(path)
    assert exact is not None
    raw = exact(images, np.ones(40, int))
    odds = np.log(package.probabilities(images))
    difference = (odds[:, 1] - odds[:, 0]) / 0.5 / 2  # of the logit from the mean of both, before the temperature
    assert raw.mean(axis=(1, 2)) + (-0.2 - 0.4) / 2 == pytest.approx(difference, abs=1e-3)


def test_the_map_of_a_model_trained_on_a_marker_points_at_it(tmp_path):
    at = (2, 17)
    images, labels, _ = marked(400, seed=2, at=at)
    head = solve(
        images.reshape(400, -1).astype(np.float32),
        np.eye(2)[labels],
        weights=np.ones(400),
        groups=np.arange(400),
        judged=np.ones(400, bool),
        seed=0,
    )
    weights = (head.kernel / 4).astype(np.float32)  # there is no bias in it
    path = write_model(tmp_path / "m.onnx", classes=["a", "b"], image_shape=(SIDE, SIDE, 1), weights=weights)
    package = Package.load(path)
    explain = maps.Explainer(path, package)
    assert explain.method == maps.BY_MASKS
    new, _, _ = marked(24, seed=3, at=at)
    found = explain(new[1::2], [1] * 12)
    assert hits(found, np.tile(at, (12, 1)), slack=2) >= 0.9
    assert found.max() == pytest.approx(1)
    spot = maps.common_spot(found)
    assert spot is not None
    assert spot.where == "upper right"
    assert np.array_equal(explain(new[1:2], [1]), explain(new[1:2], [1])), "the same image has the same map"


def test_maps_that_point_everywhere_have_no_common_spot(tmp_path):
    path = write_pooling_model(tmp_path / "model.onnx")
    images, _, _ = marked(60, seed=4)
    found = maps.Explainer(path, Package.load(path))(images[1::2], [1] * 30)
    assert maps.common_spot(found) is None
    assert maps.common_spot(found[:0]) is None
    assert maps.common_spot(np.zeros((3, SIDE, SIDE), np.float32)) is None


def test_a_map_is_laid_over_the_image():
    image = np.full((10, 20, 1), 128, np.uint8)
    heat = np.zeros((10, 20), np.float32)
    heat[5, 15] = 1
    shown = maps.overlaid(image, heat)
    assert shown.shape == (130, 260, 3)
    assert (shown[:50, :100] == 128).all()
    assert (np.ptp(shown.astype(int), axis=2) > 0).any()


@pytest.mark.parametrize("probability", [0.7, 0.9, 0.99999])
def test_an_answer_that_nothing_changes_has_an_empty_map(probability: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    constant = np.array([1 - probability, probability], np.float32)
    found = masking.rise(lambda images: np.tile(constant, (len(images), 1)), image, 1, n_masks=400, seed=0)
    assert np.abs(found).max() < 1e-9
