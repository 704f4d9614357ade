"""A convolution with BatchNorm and ReLU, the building block of the deeper networks."""

from typing import Any

from keras import layers


def convolution(
    x: Any,
    filters: int,
    kernel_size: int,
    *,
    batch_norm: bool,
    strides: int = 1,
    activation: bool = True,
    gamma: str = "ones",
) -> Any:
    """Return the features of a convolution, optional BatchNorm, and ReLU; ceil(H / strides), ceil(W / strides).

    Weights are initialised for ReLU (He et al. 2015, arXiv:1502.01852), because without BatchNorm the signal would
    otherwise fade with depth. A convolution before BatchNorm has no bias, which BatchNorm would subtract.

    Args:
        x: symbolic (n, H, W, C).
        filters: of the convolution.
        kernel_size: edge in pixels, odd.
        batch_norm: whether BatchNorm (Ioffe & Szegedy 2015) follows.
        strides: in both directions.
        activation: whether ReLU follows.
        gamma: initializer of BatchNorm's factor, by Keras' name.
    """
    padding = "same"
    if strides > 1 and kernel_size > 1:
        # Keras pads even sizes only on the far side, which would centre kernels on other pixels than the shortcut.
        x, padding = layers.ZeroPadding2D(kernel_size // 2)(x), "valid"
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=not batch_norm,
        kernel_initializer="he_normal",
    )(x)
    if batch_norm:
        # 0.9 instead of Keras' 0.99: a few hundred steps must be enough for the running statistics.
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma)(x)
    return layers.Activation("relu")(x) if activation else x
