"""EfficientNet-Lite0, which Keras does not have: its stages, blocks and layers."""

import math
from typing import Any

import keras
from keras import layers

# Kernel edge, stride, expansion, width, repeats of each stage (Tan & Le 2019, table 1; "lite": no squeeze-and-excite,
# ReLU6 instead of swish, stem and head not scaled).
LITE0_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def efficientnet_lite0(image_size: tuple[int, int]) -> keras.Model:
    """Return EfficientNet-Lite0 without its classifier, 3,413,024 weights, named as in keras' EfficientNets."""
    images = keras.Input((*image_size, 3))
    x = _convolution(images, "stem", 32, kernel_size=3, strides=2)
    for stage, (kernel_size, stride, expansion, width, repeats) in enumerate(LITE0_STAGES, 1):
        for repeat in range(repeats):
            name = f"block{stage}{'abcd'[repeat]}"
            shortcut, strides = x, stride if repeat == 0 else 1
            if expansion > 1:
                x = _convolution(x, f"{name}_expand", x.shape[-1] * expansion)
            x = layers.DepthwiseConv2D(
                kernel_size,
                strides=strides,
                padding="same",
                use_bias=False,
                # Keras' default counts all channels as inputs of each: the signal would be lost after a few blocks.
                depthwise_initializer=keras.initializers.RandomNormal(stddev=math.sqrt(2) / kernel_size),
                name=f"{name}_dwconv",
            )(x)
            x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
            x = layers.ReLU(max_value=6, name=f"{name}_activation")(x)
            x = _convolution(x, f"{name}_project", width, activated=False)
            if strides == 1 and shortcut.shape[-1] == width:
                x = layers.Add(name=f"{name}_add")([x, shortcut])
    x = _convolution(x, "top", 1280)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(images, x, name="efficientnet_lite0")


def _convolution(
    x: Any, name: str, filters: int, *, kernel_size: int = 1, strides: int = 1, activated: bool = True
) -> Any:
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6, name=f"{name}_activation")(x) if activated else x
