"""Build networks by name.

A network maps raw uint8 images (n, H, W, C) to logits (n, classes) in float32. Rescaling is its first layer, so that
training, evaluation and serving cannot disagree about it. `inference.deployable` adds the softmax. Networks consist of
Keras' own layers and operations, so that a saved model loads in safe mode without Darkroom.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from darkroom.errors import ParamsError
from darkroom.networks.architectures.fast import WHITENING, whitening
from darkroom.networks.architectures.table import ARCHITECTURES, check_architecture

OUTPUTS = ("softmax", "sigmoid")
FEATURES = "last_features"  # name of the layer whose output the logits are computed from
ROOT_OFFSET = 0.01  # the slope at 0 stays at 10


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
        output: "softmax": a logit per class; "sigmoid": one logit z for two classes, whose logits are then 0 and z. The
            softmax of these is the sigmoid of z, and their cross-entropy is the binary one.
        seed: of the initial weights and of random draws (dropout).
        policy: Keras dtype policy of the hidden layers: float32, mixed_bfloat16 or mixed_float16.

    Raises:
        ParamsError: unknown name or argument, images too small for the network, or a sigmoid for other than 2 classes.
    """
    check_architecture(name, arguments)
    with _building(seed, policy):
        try:
            images = keras.Input(image_shape, dtype="uint8", name="image")
            x = layers.Rescaling(1 / 255)(images)
            x = layers.Identity(name=FEATURES)(ARCHITECTURES[name](x, **arguments))
            return keras.Model(images, _logits(x, n_classes=n_classes, output=output), name=name)
        except ValueError as error:  # Keras: a kernel or pool that is larger than its input
            raise ParamsError(
                f"architecture {name} with {arguments} does not fit images of {image_shape}: "
                f"{str(error).splitlines()[0]}; use larger images or fewer blocks"
            ) from None


def build_head(
    n_features: int,
    *,
    n_classes: int,
    units: int = 0,
    dropout: float = 0.0,
    of_roots: bool = False,
    output: str = "softmax",
    seed: int = 0,
    policy: str = "float32",
) -> keras.Model:
    """Return an untrained head: float32 features (n, n_features) in, float32 logits (n, n_classes) out.

    Args:
        units: of a hidden layer, 0 for none.
        dropout: rate in [0, 1) before the last layer.
        of_roots: whether to take the features' signed roots first (see `root`).
        n_classes, output, seed, policy: see build.
    """
    with _building(seed, policy):
        features = keras.Input((n_features,), dtype="float32", name="features")
        x = root(features) if of_roots else features
        x = layers.Dense(units, activation="relu", name="hidden")(x) if units else x
        x = layers.Dropout(dropout, name="dropout")(x) if dropout else x
        return keras.Model(features, _logits(x, n_classes=n_classes, output=output), name="head")


def root(features: Any) -> Any:
    """Return the signed square root of features, linear near 0, of an array or of a layer's output.

    Features have few large and many small values; with their roots a linear head gains some tenths of a point
    (benchmarks/few_photographs.py).
    """
    return features / (abs(features) + ROOT_OFFSET) ** 0.5


def with_head(extractor: keras.Model, head: keras.Model) -> keras.Model:
    """Return extractor and head as one network from images to logits; it shares their weights, in this order."""
    features = layers.Identity(name=FEATURES)(extractor.output)
    return keras.Model(extractor.input, head(features), name=f"{extractor.name}_with_head")


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
        raise ParamsError(f"output sigmoid needs exactly 2 classes, got {n_classes}; use softmax")
    return ops.pad(layers.Dense(1, dtype="float32", name="logit")(x), [[0, 0], [1, 0]])


def initialise_from_data(network: keras.Model, images: Any, *, seed: int, n_images: int = 5000) -> None:
    """Fill the whitening layer of a network, if it has one, from some training images (see architectures.fast).

    Args:
        network: returned by build, untrained.
        images: uint8 (n, H, W, C), indexable by an int array; read only if a layer needs it.
        seed: of the choice of images.
        n_images: maximum number of images; a few thousand are enough for statistics of patches.
    """
    for layer in [layer for layer in network.layers if layer.name == WHITENING]:
        chosen = np.sort(np.random.default_rng([seed, 0, 0, 1]).permutation(len(images))[:n_images])
        seen = images[chosen].astype(np.float32) / 255
        layer.set_weights(whitening(seen, kernel_size=layer.kernel_size[0]))
