"""Class activation maps (Zhou et al. 2016) of ONNX graphs that end in average pooling and a linear layer.

The linear layer may take the signed roots of the averages, as a solved head does (networks.build.root).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darkroom.deployable.machine import usable_cores

# Nodes between the pooling, the linear layer and the probabilities that do not change the order of the classes.
AFTER_LINEAR = {"Softmax", "Mul", "Div", "Add", "Identity", "Cast"}
AFTER_POOLING = {"Squeeze", "Flatten", "Reshape", "Identity", "Cast"}
OF_ROOT = {"Abs", "Add", "Pow", "Sqrt"}  # of the divisor in networks.build.root
CHANNELS_FIRST, CHANNELS_LAST = {2, 3}, {1, 2}  # the axes that are averaged


class Ending(NamedTuple):
    """How a graph ends.

    Attributes:
        features: name of the tensor that is averaged.
        channels_first: whether it is (n, K, h, w), else (n, h, w, K).
        weights: float32 (K, classes), of the linear layer.
        roots: name of the tensor (n, K) of the averages' signed roots, if the linear layer takes these.
    """

    features: str
    channels_first: bool
    weights: np.ndarray
    roots: str | None


def read_ending(model: Any) -> Ending | None:
    """Return how the graph of an onnx.ModelProto ends; None if not in average pooling and a linear layer."""
    from onnx import numpy_helper

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def back(name: str, passed: set[str]) -> Any:
        """Return the node that computes a tensor, or the last one before it that is not of these types."""
        node = makers.get(name)
        while node is not None and node.op_type in passed:
            inputs = [one for one in node.input if one and one not in constants]
            if len(inputs) != 1 or not _keeps_order(node, constants):
                return None
            node = makers.get(inputs[0])
        return node

    linear = back(graph.output[0].name, AFTER_LINEAR)
    if linear is None or linear.op_type not in ("MatMul", "Gemm") or linear.input[1] not in constants:
        return None
    weights = constants[linear.input[1]].astype(np.float32)
    if any(one.name == "transB" and one.i for one in linear.attribute):
        weights = weights.T
    pooling, roots = back(linear.input[0], AFTER_POOLING), None
    if pooling is not None and pooling.op_type == "Div":
        averages, divisor = pooling.input
        pooling, roots = back(averages, AFTER_POOLING), linear.input[0]
        if back(divisor, AFTER_POOLING | OF_ROOT) is not pooling:
            return None
    if weights.ndim != 2 or pooling is None or (axes := _averaged(pooling, constants)) is None:
        return None
    return Ending(pooling.input[0], axes == CHANNELS_FIRST, weights, roots)


def _keeps_order(node: Any, constants: dict[str, np.ndarray]) -> bool:
    """Return whether an elementwise product multiplies all classes by the same positive constant."""
    if node.op_type not in ("Mul", "Div"):
        return True
    return all(constants[name].size == 1 and constants[name].min() > 0 for name in node.input if name in constants)


def _averaged(node: Any, constants: dict[str, np.ndarray]) -> set[int] | None:
    """Return the axes over which a node averages (CHANNELS_FIRST or CHANNELS_LAST); None if it does not average."""
    if node.op_type == "GlobalAveragePool":
        return CHANNELS_FIRST
    if node.op_type != "ReduceMean":
        return None
    listed = [one.ints for one in node.attribute if one.name == "axes"]
    given = listed[0] if listed else constants.get(node.input[1]) if len(node.input) > 1 else None
    axes = {int(axis) % 4 for axis in given} if given is not None else set()
    return axes if axes in (CHANNELS_FIRST, CHANNELS_LAST) else None


class ActivationMaps:
    """The maps of a graph with such an ending.

    Args:
        model: an onnx.ModelProto.
        ending: of its graph.
        threads: CPU threads of an inference; None: every core that this process may use.
    """

    def __init__(self, model: Any, ending: Ending, *, threads: int | None = None) -> None:
        import onnx
        import onnxruntime

        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        del exposed.graph.output[:]
        for name in (ending.features, ending.roots):
            if name:
                exposed.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or usable_cores()  # ONNX Runtime counts the machine's
        self._session = onnxruntime.InferenceSession(exposed.SerializeToString(), options)
        self._input = self._session.get_inputs()[0].name
        self._ending = ending

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return how much each place adds to the logit of a class, relative to the mean of all classes.

        Returns float32 (n, h, w). The mean of a map plus the difference of the biases is the relative logit, so nothing
        is approximated. A signed root is the average times a factor, by which the weight is multiplied.

        Args:
            images: uint8 (n, H, W, C).
            classes: (n,) int, the class of each map.
        """
        features, *roots = self._session.run(None, {self._input: np.ascontiguousarray(images)})
        if self._ending.channels_first:
            features = features.transpose(0, 2, 3, 1)
        weights = (self._ending.weights - self._ending.weights.mean(axis=1, keepdims=True))[:, classes].T
        if roots:
            averages = features.mean(axis=(1, 2))
            weights = weights * np.divide(roots[0], averages, out=np.zeros_like(averages), where=averages != 0)
        return np.asarray(np.einsum("nhwk,nk->nhw", features, weights), np.float32)


def opened(path: Path, *, threads: int | None = None) -> ActivationMaps | None:
    """Return the class activation maps of an ONNX file; None if its graph ends differently.

    Args:
        threads: see ActivationMaps.
    """
    import onnx

    model = onnx.load(path)
    ending = read_ending(model)
    return ActivationMaps(model, ending, threads=threads) if ending else None
