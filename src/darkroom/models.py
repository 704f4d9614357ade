"""Networks by name, and the trained network as files.

A network eats raw uint8 pictures (n, H, W, C) and returns logits (n, classes) in float32: rescaling is its first layer,
so that training, evaluation and serving cannot disagree about it. `deployable` adds the softmax. Everything here is
made of Keras' own layers and operations: a saved model loads in safe mode without Darkroom.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from darkroom.architectures import ARCHITECTURES, check_architecture
from darkroom.architectures.fast import WHITENING, whitening
from darkroom.errors import ParamsError, TrainingError
from darkroom.onnx_export import export_onnx

OUTPUTS = ("softmax", "sigmoid")
VIEWS = {"one": 1, "flip": 2, "flip_and_shift": 6}
PARITY_IMAGES = 256
PARITY_TOLERANCE = 1e-4  # of a probability; float32 kernels that sum in another order stay below 1e-5


def build(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    arguments: dict[str, Any],
    output: str = "softmax",
    seed: int = 0,
    policy: str = "float32",
) -> keras.Model:
    """Return an untrained network: uint8 (n, H, W, C) in, float32 logits (n, n_classes) out.

    Args:
        name: a key of ARCHITECTURES.
        image_shape: (H, W, C) in pixels.
        n_classes: at least 2.
        arguments: the architecture's own arguments.
        output: "softmax": a logit per class; "sigmoid": one logit z for two classes, whose logits are 0 and z. The
            softmax of those is the sigmoid of z, and their cross-entropy is the binary one.
        seed: of the initial weights, and of all random draws that the network makes later (dropout).
        policy: Keras dtype policy of the hidden layers: float32, mixed_bfloat16 or mixed_float16.

    Raises:
        ParamsError: unknown name or argument, pictures too small for the network, or a sigmoid not for 2 classes.
    """
    check_architecture(name, arguments)
    with _building(seed, policy):
        try:
            pictures = keras.Input(image_shape, dtype="uint8", name="image")
            x = layers.Rescaling(1 / 255)(pictures)
            x = ARCHITECTURES[name](x, **arguments)
            return keras.Model(pictures, _logits(x, n_classes=n_classes, output=output), name=name)
        except ValueError as error:  # Keras: a kernel or pool that is larger than its input
            raise ParamsError(
                f"architecture {name} with {arguments} does not fit pictures of {image_shape}: "
                f"{str(error).splitlines()[0]}; use larger pictures or fewer blocks"
            ) from None


def build_head(
    n_features: int,
    *,
    n_classes: int,
    units: int = 0,
    dropout: float = 0.0,
    output: str = "softmax",
    seed: int = 0,
    policy: str = "float32",
) -> keras.Model:
    """Return an untrained head: float32 features (n, n_features) in, float32 logits (n, n_classes) out.

    Args:
        units: of a hidden layer, 0 for none.
        dropout: rate in [0, 1) before the last layer.
        n_classes, output, seed, policy: as for build.
    """
    with _building(seed, policy):
        features = keras.Input((n_features,), dtype="float32", name="features")
        x = layers.Dense(units, activation="relu", name="hidden")(features) if units else features
        x = layers.Dropout(dropout, name="dropout")(x) if dropout else x
        return keras.Model(features, _logits(x, n_classes=n_classes, output=output), name="head")


def with_head(extractor: keras.Model, head: keras.Model) -> keras.Model:
    """Return extractor and head as one network: pictures in, logits out; its weights are theirs, in this order."""
    return keras.Model(extractor.input, head(extractor.output), name=f"{extractor.name}_with_head")


@contextmanager
def _building(seed: int, policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _logits(x: Any, *, n_classes: int, output: str) -> Any:
    if output not in OUTPUTS:
        raise ParamsError(f"output is {output!r}, expected one of {', '.join(OUTPUTS)}")
    if output == "softmax":
        return layers.Dense(n_classes, dtype="float32", name="logits")(x)
    if n_classes != 2:
        raise ParamsError(f"output sigmoid is for 2 classes, these are {n_classes}; use softmax")
    return ops.pad(layers.Dense(1, dtype="float32", name="logit")(x), [[0, 0], [1, 0]])


def initialise_from_data(network: keras.Model, images: Any, *, seed: int, n_pictures: int = 5000) -> None:
    """Fill the whitening layer of a network, if it has one, from some training pictures (see architectures.fast).

    Args:
        network: as build returned it, not yet trained.
        images: indexable by an int array, gives uint8 (n, H, W, C); read only where a layer asks.
        seed: decides which pictures.
        n_pictures: at most so many; a few thousand are enough for statistics of patches.
    """
    for layer in [layer for layer in network.layers if layer.name == WHITENING]:
        chosen = np.sort(np.random.default_rng([seed, 0, 0, 1]).permutation(len(images))[:n_pictures])
        seen = images[chosen].astype(np.float32) / 255
        layer.set_weights(whitening(seen, kernel_size=layer.kernel_size[0]))


def deployable(network: keras.Model, views: str = "one") -> keras.Model:
    """Return the model to deploy: uint8 pictures in, float32 probabilities out; its weights are the network's.

    Args:
        network: uint8 pictures in, logits out.
        views: of which the logits are averaged. "one": the picture; "flip": with its mirror image; "flip_and_shift":
            half of the weight is on these two, half on both shifted by one pixel to the upper left and to the lower
            right, the border reflected (Jordan 2024). All views of a batch go through the network together.
    """
    logits = network.output if views == "one" else _mean_logits(network, views)
    return keras.Model(network.input, layers.Softmax(dtype="float32", name="probabilities")(logits), name=network.name)


def _mean_logits(network: keras.Model, views: str) -> Any:
    pictures = network.input
    height, width, _ = network.input_shape[1:]
    seen, weights = [pictures], [0.5, 0.5]
    if views == "flip_and_shift":
        padded = ops.pad(pictures, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        seen += [padded[:, 2:, 2:], padded[:, :height, :width]]
        weights = [0.25, 0.25, *[0.125] * 4]
    elif views != "flip":
        raise ParamsError(f"test_time_views is {views!r}, expected one of {', '.join(VIEWS)}")
    both = [picture for view in seen for picture in (view, ops.flip(view, axis=2))]
    logits = ops.reshape(network(ops.concatenate(both, axis=0)), (len(both), -1, network.output_shape[-1]))
    return ops.sum(logits * np.array(weights, np.float32)[:, None, None], axis=0)


def at_temperature(model: keras.Model, temperature: float) -> keras.Model:
    """Return a deployable model with its logits divided by a temperature (see calibration.py); its weights are shared.

    Args:
        model: as deployable returned it.
    """
    logits = layers.Rescaling(1 / temperature, dtype="float32", name="temperature")(model.layers[-1].input)
    return keras.Model(model.input, layers.Softmax(dtype="float32", name="probabilities")(logits), name=model.name)


def answers(model: keras.Model, images: Any, *, batch_size: int) -> np.ndarray:
    """Return what a model gives for pictures: float32 (n, classes).

    Args:
        model: uint8 pictures in, probabilities or logits out.
        images: of length n, indexable by an int array, gives uint8 (n, H, W, C).
        batch_size: pictures at a time.
    """
    parts = np.array_split(np.arange(len(images)), max(1, -(-len(images) // batch_size)))
    return np.concatenate([model.predict_on_batch(images[part]) for part in parts])


def accuracy(model: keras.Model, images: Any, labels: np.ndarray, *, batch_size: int) -> float:
    """Return the share of pictures whose most probable class is their label: (n,) int; the rest as for `answers`."""
    return float((answers(model, images, batch_size=batch_size).argmax(axis=1) == labels).mean())


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
    export_onnx(model, onnx_path)
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


def export(model: keras.Model, directory: Path, *, metadata: dict[str, Any], images: np.ndarray) -> float:
    """Write model.keras and model.onnx; return the greatest difference of their probabilities on the pictures.

    Args:
        model: as deployable returned it.
        directory: made if it does not exist.
        metadata: written into the ONNX file.
        images: uint8 (n, H, W, C).

    Raises:
        TrainingError: the ONNX file does not say what the Keras model says.
    """
    directory.mkdir(parents=True, exist_ok=True)
    onnx_path = directory / "model.onnx"
    save(model, keras_path=directory / "model.keras", onnx_path=onnx_path, metadata=metadata)
    difference = onnx_difference(model, onnx_path, images)
    if not difference <= PARITY_TOLERANCE:
        raise TrainingError(
            f"{onnx_path}: its probabilities differ from the Keras model's by up to {difference:.2g} on {len(images)} "
            f"images, expected at most {PARITY_TOLERANCE:.0e}; the exported graph must not be deployed"
        )
    return difference
