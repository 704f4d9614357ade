"""Pretrained networks as feature extractors: uint8 images in, float32 features out, all preprocessing inside.

Only stock layers and operations are used, so that a saved extractor loads without this module and becomes ONNX.
"""

import math
import re
import warnings
from pathlib import Path
from typing import Any, Literal, cast
from zipfile import BadZipFile

import keras
import numpy as np
from keras import layers, ops

from darkroom.errors import DataError, ParamsError
from darkroom.networks.backbones.efficientnet_lite import efficientnet_lite
from darkroom.networks.backbones.table import NO_WEIGHTS, Backbone, Weights, check_image_size, find_backbone
from darkroom.networks.backbones.values import Values, hed_values, lite_values

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels scaled to 0..1
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, of pixels 0..255
# Patterns of block names in names of layers, by the beginning of the network's name (in lower case). True: only the
# last, merging layer of a block has such a name, and the layers before it belong to that block.
BLOCK_NAMES = {
    "vgg": (r"^block\d+", False),
    "resnet": (r"^conv\d+_block\d+", False),
    "densenet": (r"^conv\d+_block\d+", False),
    "efficientnet": (r"^block\d+[^_]+", False),
    "mobilenetv2": (r"^(block_\d+|expanded_conv)", False),
    "mobilenet_": (r"(?<=^conv_[dp]w)_\d+", False),
    "mobilenetv3": (r"^expanded_conv(_\d+)?", False),
    "convnext": (r"stage_\d+_block_\d+", False),
    "xception": (r"^block\d+", False),
    "nasnet": (r"(?<=_)(stem_|reduce_)?\d+$", False),
    "inception_v3": (r"^mixed\d+$", True),
    "inception_resnet_v2": (r"^(mixed_\w+|block\d+_\d+|conv_7b)", True),
}


def extractor(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    image_size: tuple[int, int],
    weights: Weights = NO_WEIGHTS,
    seed: int = 0,
    policy: str = "float32",
) -> keras.Model:
    """Return a frozen feature extractor: uint8 (n, H, W, C) prepared images in, float32 features (n, D) out.

    Grey images become RGB and all are resized to image_size, followed by the backbone's own preprocessing, the network
    in inference mode, and global average pooling.

    Args:
        name: a name of the backbone table.
        image_shape: (H, W, C) of the prepared images, C is 1 or 3.
        image_size: (height, width) in pixels of the backbone's input.
        weights: returned by weights.obtain_weights.
        seed: of random weights.
        policy: Keras dtype policy of the network: float32, mixed_bfloat16 or mixed_float16.

    Raises:
        ParamsError: unknown name, or image_size is too small for it.
        DataError: the file of weights does not fit the network.
    """
    backbone = find_backbone(name)
    check_image_size(backbone, image_size)
    if image_shape[-1] not in (1, 3):
        raise ParamsError(f"backbone {name}: images have {image_shape[-1]} channels, expected 1 (grey) or 3 (rgb)")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    try:
        network = _network(backbone, image_size, weights)
        images = keras.Input(image_shape, dtype="uint8", name="image")
        x = resized(ops.cast(images, "float32"), image_size)
        if image_shape[-1] == 1:
            x = layers.Concatenate(dtype="float32")([x, x, x])
        x = preprocessed(x, backbone)
        features = layers.Activation("linear", dtype="float32", name="features")(network(x, training=False))
    finally:
        keras.config.set_dtype_policy(before)
    model = keras.Model(images, features, name=f"{name.replace('-', '_')}_features")
    freeze(model)
    return model


def resized(images: Any, image_size: tuple[int, int]) -> Any:
    """Return float images (n, H, W, C) resized to (height, width), bilinear.

    Images that shrink to less than half are averaged first, so that no pixel is skipped (aliasing); Keras' own
    antialiasing cannot be exported to ONNX.
    """
    height, width = images.shape[1:3]
    if (height, width) == tuple(image_size):
        return images
    pool = (max(1, height // image_size[0]), max(1, width // image_size[1]))
    if pool != (1, 1):
        images = layers.AveragePooling2D(pool, padding="same", dtype="float32")(images)
    if tuple(images.shape[1:3]) != tuple(image_size):
        images = layers.Resizing(*image_size, dtype="float32")(images)
    return images


def preprocessed(images: Any, backbone: Backbone) -> Any:
    """Return RGB images 0..255 (n, H, W, 3) in the range that the backbone expects."""
    kind = backbone.preprocessing
    if kind == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32")(images)
    if kind == "lite":
        return layers.Rescaling(1 / 128, offset=-127 / 128, dtype="float32")(images)
    if kind == "caffe":
        blue_first = ops.take(images, [2, 1, 0], axis=-1)
        return layers.Rescaling(1.0, offset=[-mean for mean in CAFFE_MEAN], dtype="float32")(blue_first)
    if kind == "torch":
        scale = [1 / (255 * deviation) for deviation in IMAGENET_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype="float32")(images)
    return images


def freeze(model: keras.Model) -> None:
    """Make no weight of the extractor trainable."""
    backbone_network(model).trainable = False


def unfreeze(model: keras.Model, n_blocks: int | Literal["all"]) -> list[str]:
    """Make the weights of the last blocks trainable, all others not, and return the names of these blocks.

    BatchNorm layers stay frozen, with scale, offset and statistics: Keras passes training=True to every layer, however
    the backbone is called, and only a frozen BatchNorm ignores it.

    Args:
        model: an extractor, or an extractor with a head.
        n_blocks: number of `blocks(model)`, from the end, at least 1.

    Raises:
        ParamsError: the backbone has fewer blocks.
    """
    network, found = backbone_network(model), blocks(model)
    if n_blocks != "all" and n_blocks > len(found):
        raise ParamsError(
            f"unfreeze is {n_blocks}, but {network.name} has {len(found)} blocks; write `all` for all of them"
        )
    chosen = list(found)[0 if n_blocks == "all" else -n_blocks :]
    network.trainable = True
    for name, members in found.items():
        for layer in members:
            layer.trainable = name in chosen and not isinstance(layer, layers.BatchNormalization)
    return chosen


def blocks(model: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Return the layers with weights of an extractor's network by block, from input to output.

    The stem belongs to the first block; layers between and after blocks (transitions, the last convolution) belong to
    the block before them.
    """
    return _blocks_of(backbone_network(model))


def _blocks_of(network: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    pattern, named_last = next(rule for name, rule in BLOCK_NAMES.items() if network.name.lower().startswith(name))
    found: dict[str, list[keras.layers.Layer]] = {}
    waiting: list[keras.layers.Layer] = []
    last = ""
    for layer in network.layers:
        match = re.search(pattern, layer.name) if named_last or layer.weights else None
        if match:
            last = match[0].strip("_")
            found.setdefault(last, []).extend(waiting)
            waiting = []
        if layer.weights:
            (waiting if not match and (named_last or not last) else found[last]).append(layer)
    found[last].extend(waiting)
    return found


def backbone_network(model: keras.Model) -> keras.Model:
    """Return the network inside an extractor, or inside an extractor with a head."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def _network(backbone: Backbone, image_size: tuple[int, int], weights: Weights) -> keras.Model:
    """Return the network from RGB images in the backbone's own range to features, with its weights loaded."""
    if backbone.keras_class is None:
        network = efficientnet_lite(backbone.name, image_size)
    else:
        network = getattr(keras.applications, backbone.keras_class)(
            include_top=False,
            weights=None,
            input_shape=(*image_size, 3),
            pooling="avg",  # by keras.applications, because ConvNeXt has a normalization after it
        )
    if weights.path is not None:
        _load(network, backbone, weights)
    if weights.origin == "pretrained" and (backbone.keras_class or "").startswith("EfficientNetB"):
        _divide_by_deviations(network)
    for layer in network.layers:
        # Keras passes training=True to the layers inside, however the network is called; without this their random
        # draws would change the features while a head is trained.
        for rate in ("rate", "drop_path_rate"):
            if hasattr(layer, rate):
                setattr(layer, rate, 0.0)
    return exportable(network)


def _divide_by_deviations(network: keras.Model) -> None:
    """Normalize images as for the ImageNet weights of EfficientNet B0 to B7: by standard deviations, not their roots.

    Keras adds a layer for that only if it downloads the weights itself.
    """
    normalization = next(layer for layer in network.layers if isinstance(layer, layers.Normalization))
    mean, variance, count = normalization.get_weights()
    normalization.set_weights([mean, variance * np.array(IMAGENET_DEVIATION, np.float32), count])
    normalization.finalize_state()


def exportable(network: keras.Model) -> keras.Model:
    """Return the network with equivalent layers in place of those that cannot be exported to ONNX; others are shared.

    These are Normalization (its constants are lost), and in ConvNeXt convolutions with a group per channel and the
    exact GELU.
    """

    def replaced(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):  # an operation such as +
            return layer
        settings: dict[str, Any] = {"dtype": layer.dtype_policy, "name": layer.name}
        if isinstance(layer, layers.Normalization):
            scale = 1 / np.sqrt(ops.convert_to_numpy(layer.variance).ravel())
            offset = -ops.convert_to_numpy(layer.mean).ravel() * scale
            return layers.Rescaling(scale.tolist(), offset=offset.tolist(), **settings)
        if isinstance(layer, layers.Conv2D) and layer.groups == layer.filters > 1:
            depthwise = layers.DepthwiseConv2D(layer.kernel_size, padding=layer.padding, **settings)
            depthwise.build((None, None, None, layer.filters))
            kernel, bias = layer.get_weights()
            depthwise.set_weights([kernel.transpose(0, 1, 3, 2), bias])
            return depthwise
        if isinstance(layer, layers.Activation) and layer.activation is keras.activations.gelu:
            x = keras.Input(layer.output.shape[1:], dtype=layer.compute_dtype)
            return keras.Model(x, 0.5 * x * (1 + ops.erf(x * math.sqrt(0.5))), name=layer.name)
        return layer

    if all(replaced(layer) is layer for layer in network.layers):
        return network
    return keras.models.clone_model(network, clone_function=replaced)


def _load(network: keras.Model, backbone: Backbone, weights: Weights) -> None:
    """Set the weights of a network from its file.

    Raises:
        DataError: the file does not fit the network.
    """
    path = cast(Path, weights.path)
    if backbone.keras_class is None and path.suffix in (".pth", ".safetensors"):
        _set(network, lite_values(path, list(_blocks_of(network))), path)
    elif backbone.name == "vgg16-hed" and weights.origin == "pretrained":
        _set(network, hed_values(path), path)
    else:
        try:
            with warnings.catch_warnings():
                # Keras only warns if a file lacks a part of the network, which then keeps its random values.
                warnings.simplefilter("error", UserWarning)
                network.load_weights(path)
        # Keras has no error of its own.
        except (UserWarning, ValueError, LookupError, OSError, TypeError, AttributeError, BadZipFile) as error:
            raise DataError(
                f"{path.name} does not fit {backbone.name} without its classifier ({backbone.n_values:,} values): "
                f"{' '.join(str(error).split())[:300]}"
            ) from None


def _set(network: keras.Model, values: Values, path: Path) -> None:
    """Set every weight of the network."""
    for layer in network.layers:
        if not layer.weights:
            continue
        found = [value.shape for value in values[layer.name]]
        expected = [tuple(weight.shape) for weight in layer.weights]
        if found != expected:
            raise DataError(f"{path.name}: {layer.name} has shapes {found}, expected {expected}")
        layer.set_weights(values[layer.name])
