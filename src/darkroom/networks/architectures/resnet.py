"""Residual networks for photographs, and those of the paper's CIFAR-10 experiments.

He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", arXiv:1512.03385. In both, the last BatchNorm
of a block starts at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1), so a block is the identity at first, and
high learning rates are safe from the first step.
"""

from typing import Any, Literal

from keras import layers

from darkroom.errors import ParamsError
from darkroom.networks.architectures.convolution import convolution

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def resnet(
    images: Any,
    *,
    depth: Literal[18, 34, 50],
    filters: int = 64,
    stem: Literal["imagenet", "small"] = "imagenet",
    dropout: float = 0.0,
) -> Any:
    """Return the features of ResNet-18, -34 (basic blocks) or -50 (bottlenecks).

    The defaults give, on (224, 224, 3) and 1000 classes, 11,689,512 trainable parameters at depth 18, 21,797,672 at 34
    and 25,557,032 at 50 (Keras' count_params adds BatchNorm's moving statistics: 9,600, 17,024 and 53,120). Stem
    (112, 112, 64), pooled (56, 56, 64), then the four stages (56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512),
    at depth 50 with four times the channels; averaged to 512, or 2048.

    The shortcut of a block that changes the shape is a 1x1 convolution (the paper's option B), others are the identity.
    Bottlenecks have their stride in the 3x3 convolution, as in torchvision; the paper has it in the first 1x1
    convolution, with the same number of parameters.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        depth: layers with weights.
        filters: of the stem and the first stage; each stage doubles them.
        stem: "imagenet": 7x7 of stride 2 and a max-pool; "small": 3x3 of stride 1, for images of 32 to 96 pixels.
        dropout: rate in [0, 1) before the classifier; 0 in the paper.
    """
    if stem == "imagenet":
        x = convolution(images, filters, 7, strides=2, batch_norm=True)
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))  # zeros are the minimum after ReLU
    else:
        x = convolution(images, filters, 3, batch_norm=True)
    block = _bottleneck_block if depth >= 50 else _basic_block
    for stage, n_blocks in enumerate(BLOCKS[depth]):
        for index in range(n_blocks):
            x = block(x, filters * 2**stage, strides=2 if stage and not index else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(dropout)(x) if dropout else x


def resnet_cifar(images: Any, *, depth: int, filters: int = 16, dropout: float = 0.0) -> Any:
    """Return the features of the residual network for small images (section 4.2 of the paper): 6n + 2 layers.

    The defaults give, on (32, 32, 3) and ten classes, 269,722 trainable parameters at depth 20, 464,154 at 32 and
    853,018 at 56: the paper's 0.27M, 0.46M and 0.85M (Keras' count_params adds BatchNorm's moving statistics: 1,376,
    2,272 and 4,064). Stem and first stage (32, 32, 16), then (16, 16, 32) and (8, 8, 64); averaged to 64.

    All shortcuts are the identity, subsampled and padded with channels of zeros where the shape changes: option A,
    which the paper uses for CIFAR-10, so the counts are those of the plain networks. Option B would add 2,752
    parameters.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        depth: layers with weights, 6n + 2: 20, 32, 44, 56, 110 in the paper.
        filters: of the stem and the first stage; each stage doubles them.
        dropout: rate in [0, 1) before the classifier; 0 in the paper.

    Raises:
        ParamsError: depth is not 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ParamsError(f"architecture resnet_cifar: depth is {depth}, expected 6n + 2, such as 20, 32 or 56")
    x = convolution(images, filters, 3, batch_norm=True)
    for stage in range(3):
        for index in range((depth - 2) // 6):
            x = _basic_block(x, filters * 2**stage, strides=2 if stage and not index else 1, projection=False)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(dropout)(x) if dropout else x


def _basic_block(x: Any, filters: int, *, strides: int, projection: bool = True) -> Any:
    shortcut = _projection if projection else identity_shortcut
    branch = convolution(x, filters, 3, strides=strides, batch_norm=True)
    branch = convolution(branch, filters, 3, batch_norm=True, activation=False, gamma="zeros")
    return _joined(shortcut(x, filters, strides=strides), branch)


def _bottleneck_block(x: Any, filters: int, *, strides: int) -> Any:
    branch = convolution(x, filters, 1, batch_norm=True)
    branch = convolution(branch, filters, 3, strides=strides, batch_norm=True)
    branch = convolution(branch, 4 * filters, 1, batch_norm=True, activation=False, gamma="zeros")
    return _joined(_projection(x, 4 * filters, strides=strides), branch)


def _joined(shortcut: Any, branch: Any) -> Any:
    return layers.Activation("relu")(layers.Add()([shortcut, branch]))


def _projection(x: Any, filters: int, *, strides: int) -> Any:
    """Return the shortcut of option B: a convolution where the shape changes."""
    if strides == 1 and x.shape[-1] == filters:
        return x
    return convolution(x, filters, 1, strides=strides, batch_norm=True, activation=False)


def identity_shortcut(x: Any, filters: int, *, strides: int) -> Any:
    """Return the shortcut of option A: every `strides`-th pixel, and zeros in additional channels."""
    if strides > 1:
        x = layers.MaxPooling2D(1, strides)(x)  # windows of one pixel: subsampling in one stock layer
    if missing := filters - x.shape[-1]:
        # With channels_first the layer pads the last two axes, the last of which is that of the channels.
        x = layers.ZeroPadding2D(((0, 0), (0, missing)), data_format="channels_first")(x)
    return x
