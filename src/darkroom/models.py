"""Networks by name, and the trained network as files.

A network eats raw uint8 pictures (n, H, W, C) and returns logits (n, classes) in float32: rescaling is its first layer,
so that training, evaluation and serving cannot disagree about it. `deployable` adds the softmax.
"""

import inspect
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from darkroom.errors import ParamsError, TrainingError


def single_conv(
    pictures: Any, *, filters: int = 32, kernel_size: int = 3, units: int = 100, initializer: str = "he_uniform"
) -> Any:
    """Return the features of one convolution, one max-pool and one dense layer.

    The small CNN that introductory articles train on MNIST: 542,230 parameters on (28, 28, 1) and ten classes.
    """
    x = layers.Conv2D(filters, kernel_size, activation="relu", kernel_initializer=initializer)(pictures)
    x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    return layers.Dense(units, activation="relu", kernel_initializer=initializer)(x)


def compact(
    pictures: Any,
    *,
    filters: list[int],
    stem_kernel_size: int = 5,
    head: str = "flatten",
    dropout: float = 0.0,
) -> Any:
    """Return the features of a small VGG-like network: convolution, max-pool, BatchNorm, ReLU per entry of `filters`.

    The order is chosen for speed on CPUs: pooling first leaves BatchNorm and ReLU a quarter of the values (ReLU
    commutes with max-pooling; BatchNorm sees the maxima, which it normalises just as well). The stem has no padding,
    since the border of a picture rarely holds what it shows.

    Args:
        pictures: symbolic (n, H, W, C), scaled to [0, 1].
        filters: width of each block; every block halves height and width, so at most log2(min(H, W)) blocks fit.
        stem_kernel_size: edge of the first kernel, in pixels.
        head: "flatten" keeps where a feature was seen (best for centred pictures up to about 32 px), "average" pools
            globally (for photographs).
        dropout: rate in [0, 1) before the classifier.
    """
    if head not in ("flatten", "average"):
        raise ParamsError(f"architecture compact: head is {head!r}, expected flatten or average")
    x = pictures
    for block, width in enumerate(filters):
        size, padding = (stem_kernel_size, "valid") if block == 0 else (3, "same")
        x = layers.Conv2D(width, size, padding=padding, use_bias=False)(x)
        x = layers.MaxPooling2D()(x)
        # 0.9 instead of Keras' 0.99: a few hundred steps must be enough for the running statistics.
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu")(x)
    x = layers.Flatten()(x) if head == "flatten" else layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(dropout)(x) if dropout else x


ARCHITECTURES: dict[str, Callable[..., Any]] = {"compact": compact, "single_conv": single_conv}


def check_architecture(name: str, arguments: dict[str, Any]) -> None:
    """Refuse an unknown architecture or argument before any data are read.

    Raises:
        ParamsError: names what is known.
    """
    if name not in ARCHITECTURES:
        raise ParamsError(f"there is no architecture {name!r}; known: {', '.join(sorted(ARCHITECTURES))}")
    known = list(inspect.signature(ARCHITECTURES[name]).parameters)[1:]
    if unknown := sorted(set(arguments) - set(known)):
        raise ParamsError(f"architecture {name} has no argument {unknown[0]!r}; known: {', '.join(known)}")


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
