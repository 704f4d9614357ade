"""EfficientNet-Lite, which Keras does not have."""

import math
from typing import Any, NamedTuple

import keras
from keras import layers


class Stage(NamedTuple):
    """A sequence of blocks; only the first one has another stride and input width."""

    kernel_size: int
    stride: int
    expansion: int
    width: int
    repeats: int


# Tan & Le 2019, table 1; "lite": no squeeze-and-excite, ReLU6 instead of swish, stem and head not scaled.
_LITE0 = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
SCALES = {  # of width and depth
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}
WIDTH_STEP = 8


def stages(name: str) -> list[Stage]:
    """Return the stages of a network of SCALES; the first and the last always have one block."""
    width, depth = SCALES[name]
    last = len(_LITE0) - 1
    return [
        stage._replace(
            width=_rounded(stage.width * width),
            repeats=stage.repeats if number in (0, last) else math.ceil(stage.repeats * depth),
        )
        for number, stage in enumerate(_LITE0)
    ]


def _rounded(width: float) -> int:
    """Return the nearest multiple of 8, or the next higher one if that is smaller by more than a tenth."""
    nearest = max(WIDTH_STEP, int(width + WIDTH_STEP / 2) // WIDTH_STEP * WIDTH_STEP)
    return nearest if nearest >= 0.9 * width else nearest + WIDTH_STEP


def efficientnet_lite(name: str, image_size: tuple[int, int]) -> keras.Model:
    """Return a network of SCALES without its classifier, its layers named as in keras' EfficientNets."""
    images = keras.Input((*image_size, 3))
    x = _convolution(images, "stem", 32, kernel_size=3, strides=2)
    for stage, (kernel_size, stride, expansion, width, repeats) in enumerate(stages(name), 1):
        for repeat in range(repeats):
            block = f"block{stage}{'abcde'[repeat]}"
            shortcut, strides = x, stride if repeat == 0 else 1
            if expansion > 1:
                x = _convolution(x, f"{block}_expand", x.shape[-1] * expansion)
            x = layers.DepthwiseConv2D(
                kernel_size,
                strides=strides,
                padding="same",
                use_bias=False,
                # Keras' default fan-in counts all channels, so the signal would vanish after a few blocks.
                depthwise_initializer=keras.initializers.RandomNormal(stddev=math.sqrt(2) / kernel_size),
                name=f"{block}_dwconv",
            )(x)
            x = layers.BatchNormalization(epsilon=1e-3, name=f"{block}_bn")(x)
            x = layers.ReLU(max_value=6, name=f"{block}_activation")(x)
            x = _convolution(x, f"{block}_project", width, activated=False)
            if strides == 1 and shortcut.shape[-1] == width:
                x = layers.Add(name=f"{block}_add")([x, shortcut])
    x = _convolution(x, "top", 1280)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(images, x, name=name.replace("-", "_"))


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
