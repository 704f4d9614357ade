"""Networks by name, and the trained network as files.

A network eats raw uint8 pictures (n, H, W, C) and returns logits (n, classes) in float32: rescaling is its first layer,
so that training, evaluation and serving cannot disagree about it. `deployable` adds the softmax.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from darkroom.architectures import ARCHITECTURES, check_architecture
from darkroom.errors import ParamsError, TrainingError


def build(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    arguments: dict[str, Any],
    seed: int = 0,
    policy: str = "float32",
) -> keras.Model:
    """Return an untrained network: uint8 (n, H, W, C) in, float32 logits (n, n_classes) out.

    Args:
        name: a key of ARCHITECTURES.
        image_shape: (H, W, C) in pixels.
        n_classes: at least 2.
        arguments: the architecture's own arguments.
        seed: of the initial weights, and of all random draws that the network makes later (dropout).
        policy: Keras dtype policy of the hidden layers: float32, mixed_bfloat16 or mixed_float16.

    Raises:
        ParamsError: unknown name or argument, or pictures too small for the network.
    """
    check_architecture(name, arguments)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    try:
        pictures = keras.Input(image_shape, dtype="uint8", name="image")
        x = layers.Rescaling(1 / 255)(pictures)
        x = ARCHITECTURES[name](x, **arguments)
        logits = layers.Dense(n_classes, dtype="float32", name="logits")(x)
        return keras.Model(pictures, logits, name=name)
    except ValueError as error:  # Keras: a kernel or pool that is larger than its input
        raise ParamsError(
            f"architecture {name} with {arguments} does not fit pictures of {image_shape}: "
            f"{str(error).splitlines()[0]}; use larger pictures or fewer blocks"
        ) from None
    finally:
        keras.config.set_dtype_policy(before)


class Draws(layers.Layer):
    """Apply drawn shifts, flips and cutouts to uint8 pictures on the device.

    Inputs: pictures uint8 (b, H, W, C) and draws int32 (b, 5): rows down, columns right (pixels, at most `shift`),
    mirrored (0 or 1), top and left of the cutout. Output: uint8 (b, H, W, C); what is shifted in is 0.
    """

    def __init__(self, *, shift: int, flip: bool, cutout: int) -> None:
        super().__init__(name="apply_draws", dtype="float32")
        self.shift, self.flip, self.cutout = shift, flip, cutout

    def call(self, pictures: Any, draws: Any) -> Any:
        height, width = pictures.shape[1:3]
        rows, columns = ops.arange(height, dtype="int32"), ops.arange(width, dtype="int32")
        if self.flip:
            pictures = ops.where(draws[:, 2, None, None, None] == 1, ops.flip(pictures, axis=2), pictures)
        if self.shift:
            padded = ops.pad(pictures, [[0, 0], [self.shift] * 2, [self.shift] * 2, [0, 0]])
            from_rows = rows[None, :] + self.shift - draws[:, 0, None]
            from_columns = columns[None, :] + self.shift - draws[:, 1, None]
            pictures = ops.take_along_axis(padded, from_rows[:, :, None, None], axis=1)
            pictures = ops.take_along_axis(pictures, from_columns[:, None, :, None], axis=2)
        if self.cutout:
            from_top, from_left = rows[None, :] - draws[:, 3, None], columns[None, :] - draws[:, 4, None]
            in_rows = ops.logical_and(from_top >= 0, from_top < self.cutout)
            in_columns = ops.logical_and(from_left >= 0, from_left < self.cutout)
            inside = ops.logical_and(in_rows[:, :, None], in_columns[:, None, :])[..., None]
            pictures = ops.where(inside, ops.zeros_like(pictures), pictures)
        return pictures

    def compute_output_spec(self, pictures: Any, _draws: Any) -> Any:
        return keras.KerasTensor(pictures.shape, dtype=pictures.dtype)


def with_draws(network: keras.Model, *, shift: int, flip: bool, cutout: int) -> keras.Model:
    """Return the network behind Draws: (pictures, draws int32 (n, 5)) in, the network's logits out, weights shared."""
    pictures = keras.Input(network.input_shape[1:], dtype="uint8", name="picture")
    draws = keras.Input((5,), dtype="int32", name="draws")
    varied = Draws(shift=shift, flip=flip, cutout=cutout)(pictures, draws) if shift or flip or cutout else pictures
    return keras.Model([pictures, draws], network(varied), name=f"{network.name}_with_draws")


def deployable(network: keras.Model) -> keras.Model:
    """Return the model to deploy: uint8 pictures in, float32 probabilities out; its weights are the network's."""
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(network.output)
    return keras.Model(network.input, probabilities, name=network.name)


def check_backend() -> None:
    """Refuse a Keras backend that cannot write ONNX.

    Raises:
        TrainingError: the active backend is not TensorFlow.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise TrainingError(f"KERAS_BACKEND={backend} cannot write the ONNX file to serve; expected tensorflow")


def save(model: keras.Model, *, keras_path: Path, onnx_path: Path, metadata: dict[str, Any]) -> None:
    """Write a deployable float32 model as model.keras and as ONNX with `metadata` inside (JSON under `darkroom`).

    Raises:
        TrainingError: the active Keras backend cannot write ONNX.
    """
    import onnx

    model.save(keras_path)
    check_backend()
    model(np.zeros((1, *model.input_shape[1:]), np.uint8))  # Keras exports only models that were called
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # Keras' copy of tf2onnx
        model.export(onnx_path, format="onnx", verbose=False)
    graph = onnx.load(onnx_path)
    graph.metadata_props.add(key="darkroom", value=json.dumps(metadata, sort_keys=True))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    graph.producer_name = "darkroom"
    onnx.checker.check_model(graph)
    onnx.save(graph, onnx_path)


def onnx_difference(model: keras.Model, onnx_path: Path, images: np.ndarray) -> float:
    """Return the greatest absolute difference between the probabilities of the model and of its ONNX file.

    Args:
        model: the deployable model that `onnx_path` was written from.
        images: uint8 (n, H, W, C).
    """
    from darkroom.package import Package  # needs onnxruntime, which a machine that only trains does not have

    return float(np.abs(model.predict(images, verbose=0) - Package.load(onnx_path).probabilities(images)).max())
