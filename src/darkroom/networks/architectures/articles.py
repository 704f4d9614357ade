"""The networks of introductory tutorials, in their original sizes."""

from typing import Any, Literal

from keras import layers

Initializer = Literal["glorot_uniform", "glorot_normal", "he_uniform", "he_normal"]


def single_conv(
    images: Any, *, filters: int = 32, kernel_size: int = 3, units: int = 100, initializer: Initializer = "he_uniform"
) -> Any:
    """Return the features of one convolution, one max-pool and one dense layer.

    The smallest network of the tutorials, used for two datasets:

    - on MNIST, with the defaults: 542,230 parameters on (28, 28, 1) and ten classes;
      (26, 26, 32), pooled (13, 13, 32), flat 5408, dense 100.
    - on photographs of cats and dogs, with units=128 and initializer="glorot_uniform": 3,937,409 parameters on
      (64, 64, 3) and one sigmoid; (62, 62, 32), pooled (31, 31, 32), flat 30752, dense 128.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        filters: of the convolution.
        kernel_size: edge in pixels; no padding.
        units: of the dense layer.
        initializer: of the kernels, by Keras' name.
    """
    x = layers.Conv2D(filters, kernel_size, activation="relu", kernel_initializer=initializer)(images)
    x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    return layers.Dense(units, activation="relu", kernel_initializer=initializer)(x)


def two_conv(
    images: Any,
    *,
    filters: list[int],
    kernel_size: int = 3,
    units: int = 128,
    conv_dropout: float = 0.25,
    dense_dropout: float = 0.5,
    initializer: Initializer = "glorot_uniform",
) -> Any:
    """Return the features of two convolutions, one max-pool and one dense layer, with dropout after the last two.

    The MNIST example (mnist_cnn) that came with Keras from 2015 on: filters=[32, 64] give 1,199,882 parameters on
    (28, 28, 1) and ten classes; (26, 26, 32), (24, 24, 64), pooled (12, 12, 64), flat 9216, dense 128.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        filters: of each convolution.
        kernel_size: edge in pixels; no padding.
        units: of the dense layer.
        conv_dropout: rate in [0, 1) after the max-pool.
        dense_dropout: rate in [0, 1) after the dense layer.
        initializer: of the kernels, by Keras' name; the example uses Keras' default.
    """
    x = images
    for width in filters:
        x = layers.Conv2D(width, kernel_size, activation="relu", kernel_initializer=initializer)(x)
    x = layers.Dropout(conv_dropout)(layers.MaxPooling2D()(x))
    x = layers.Dense(units, activation="relu", kernel_initializer=initializer)(layers.Flatten()(x))
    return layers.Dropout(dense_dropout)(x)


def six_conv(
    images: Any,
    *,
    filters: list[int],
    kernel_size: int = 3,
    units: int = 512,
    conv_dropout: float = 0.25,
    dense_dropout: float = 0.5,
    initializer: Initializer = "glorot_uniform",
) -> Any:
    """Return the features of three blocks of two convolutions and a max-pool, and of one dense layer.

    The CIFAR-10 network of the tutorials: filters=[32, 64, 64] give 276,138 parameters on (32, 32, 3) and ten classes.
    The first convolution of a block is padded, the second is not: (32, 32, 32), (30, 30, 32), pooled (15, 15, 32);
    (15, 15, 64), (13, 13, 64), pooled (6, 6, 64); (6, 6, 64), (4, 4, 64), pooled (2, 2, 64); flat 256, dense 512.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        filters: of both convolutions of each block.
        kernel_size: edge in pixels.
        units: of the dense layer.
        conv_dropout: rate in [0, 1) after each max-pool.
        dense_dropout: rate in [0, 1) after the dense layer.
        initializer: of the kernels, by Keras' name; the tutorials use Keras' default.
    """
    x = images
    for width in filters:
        for padding in ("same", "valid"):
            x = layers.Conv2D(width, kernel_size, padding=padding, activation="relu", kernel_initializer=initializer)(x)
        x = layers.Dropout(conv_dropout)(layers.MaxPooling2D()(x))
    x = layers.Dense(units, activation="relu", kernel_initializer=initializer)(layers.Flatten()(x))
    return layers.Dropout(dense_dropout)(x)
