"""Turn a trained network into the deployable model: averaged views, temperature, probabilities."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from darkroom.errors import ParamsError
from darkroom.networks.build import FEATURES

VIEWS = {"one": 1, "flip": 2, "flip_and_shift": 6}


def described(network: keras.Model, views: str = "one") -> keras.Model:
    """Return a model with two outputs: logits, and the last features of the image itself.

    Args:
        network: uint8 images in, logits out; see build.
        views: over which logits are averaged. "one": the image; "flip": also its mirror image; "flip_and_shift": half
            of the weight on these two, half on both shifted by one pixel to the upper left and to the lower right, with
            the border reflected (Jordan 2024). All views of a batch are computed together.
    """
    both = keras.Model(network.input, [network.output, network.get_layer(FEATURES).output], name=network.name)
    return both if views == "one" else _averaged(both, views)


def deployable(network: keras.Model, views: str = "one") -> keras.Model:
    """Return the model to deploy: uint8 images in, float32 probabilities out; it shares the network's weights.

    Args:
        network, views: see described.
    """
    return answering(described(network, views))


def answering(described_model: keras.Model) -> keras.Model:
    """Return the model to deploy from one of `described`."""
    logits, name = described_model.outputs[0], described_model.name
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model(described_model.input, probabilities, name=name)


def _averaged(network: keras.Model, views: str) -> keras.Model:
    images = network.input
    height, width, _ = network.input_shape[1:]
    seen, weights = [images], [0.5, 0.5]
    if views == "flip_and_shift":
        padded = ops.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        seen += [padded[:, 2:, 2:], padded[:, :height, :width]]
        weights = [0.25, 0.25, *[0.125] * 4]
    elif views != "flip":
        raise ParamsError(f"test_time_views is {views!r}, expected one of {', '.join(VIEWS)}")
    both = [image for view in seen for image in (view, ops.flip(view, axis=2))]
    logits, features = (
        ops.reshape(one, (len(both), -1, one.shape[-1])) for one in network(ops.concatenate(both, axis=0))
    )
    mean = ops.sum(logits * np.array(weights, np.float32)[:, None, None], axis=0)
    return keras.Model(images, [mean, features[0]], name=network.name)


def at_temperature(model: keras.Model, temperature: float) -> keras.Model:
    """Return a deployable model with its logits divided by a temperature (see temperature.py); weights are shared.

    Args:
        model: returned by deployable.
    """
    logits = layers.Rescaling(1 / temperature, dtype="float32", name="temperature")(model.layers[-1].input)
    return keras.Model(model.input, layers.Softmax(dtype="float32", name="probabilities")(logits), name=model.name)


def answers(model: keras.Model, images: Any, *, batch_size: int) -> np.ndarray:
    """Return the outputs of a model for images: float32 (n, classes).

    Args:
        model: uint8 images in, probabilities or logits out.
        images: uint8 (n, H, W, C), indexable by an int array.
        batch_size: images at a time.
    """
    return outputs(model, images, batch_size=batch_size)[0]


def outputs(model: keras.Model, images: Any, *, batch_size: int) -> list[np.ndarray]:
    """Return every output of a model for images; for arguments see answers."""
    parts = np.array_split(np.arange(len(images)), max(1, -(-len(images) // batch_size)))
    found = [keras.tree.flatten(model.predict_on_batch(images[part])) for part in parts]
    return [np.concatenate(one) for one in zip(*found, strict=True)]


def right(model: keras.Model, images: Any, labels: np.ndarray, *, batch_size: int) -> np.ndarray:
    """Return whether the most probable class of each image is its label (n,): bool (n,); see answers."""
    predicted = answers(model, images, batch_size=batch_size).argmax(axis=1)
    return np.asarray(predicted == labels)


def accuracy(model: keras.Model, images: Any, labels: np.ndarray, *, batch_size: int) -> float:
    """Return the share of images whose most probable class is their label; see right."""
    return float(right(model, images, labels, batch_size=batch_size).mean())
