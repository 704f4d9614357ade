"""LeNet-5 and AlexNet."""

from typing import Any, Literal

from keras import layers


def lenet5(
    images: Any,
    *,
    filters: list[int],
    units: list[int],
    kernel_size: int = 5,
    stem_padding: Literal["valid", "same"] = "valid",
    activation: Literal["tanh", "relu"] = "tanh",
    pooling: Literal["average", "max"] = "average",
) -> Any:
    """Return the features of LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document
    recognition", section II.B).

    filters=[6, 16] and units=[120, 84] give 61,706 parameters on (32, 32, 1), or on (28, 28, 1) with
    stem_padding="same", and ten classes: C1 (28, 28, 6), S2 (14, 14, 6), C3 (10, 10, 16), S4 (5, 5, 16), C5 120, F6 84.

    The paper has 60,000. The differences: every map of C3 is connected to all of S2, where the paper left out 900
    weights to save time; S2 and S4 average without the paper's 44 coefficients and biases; and the classifier is a
    linear layer (850) instead of fixed distances to drawn digits. tanh is not scaled by 1.7159.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        filters: of each convolution; a pooling follows each.
        units: of each dense layer.
        kernel_size: edge in pixels.
        stem_padding: "same" pads the first convolution; the paper padded its digits of 28 pixels to 32.
        activation: "tanh" as in the paper, or "relu".
        pooling: "average" as in the paper, or "max".
    """
    initializer = "he_normal" if activation == "relu" else "glorot_uniform"
    pool = layers.AveragePooling2D if pooling == "average" else layers.MaxPooling2D
    x = images
    for block, width in enumerate(filters):
        padding = stem_padding if block == 0 else "valid"
        x = layers.Conv2D(width, kernel_size, padding=padding, activation=activation, kernel_initializer=initializer)(x)
        x = pool(2)(x)
    x = layers.Flatten()(x)
    for width in units:
        x = layers.Dense(width, activation=activation, kernel_initializer=initializer)(x)
    return x


def alexnet(
    images: Any,
    *,
    filters: list[int],
    units: list[int],
    stem_kernel_size: int = 11,
    stem_strides: int = 4,
    dropout: float = 0.5,
) -> Any:
    """Return the features of AlexNet (Krizhevsky, Sutskever, Hinton 2012, "ImageNet classification with deep
    convolutional neural networks").

    filters=[96, 256, 384, 384, 256] and units=[4096, 4096] give 62,378,344 parameters on (227, 227, 3) and 1000
    classes: (55, 55, 96), pooled (27, 27, 96); (27, 27, 256), pooled (13, 13, 256); (13, 13, 384) twice and
    (13, 13, 256), pooled (6, 6, 256); flat 9216, dense 4096 twice. Small images need a smaller stem, for example
    stem_kernel_size=3, stem_strides=1 for images of at least 17 pixels.

    The paper splits convolutions 2, 4 and 5 over two GPUs, which halves their weights and gives 60,965,224 parameters;
    here the two towers are one. Local response normalisation is left out: Keras has no such layer, it has no
    parameters, and Simonyan & Zisserman (2015, table 3, A-LRN) found no gain from it. Weights are initialised after He
    et al. (2015) and biases with 0, instead of a normal distribution of 0.01 and biases of 1.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        filters: of the convolutions: the stem, one of 5x5, then those of 3x3; the first, second and last are pooled.
        units: of each dense layer.
        stem_kernel_size: edge in pixels of the first kernel; no padding.
        stem_strides: of the first convolution.
        dropout: rate in [0, 1) before each dense layer except the classifier, as in the paper.
    """
    kernels = [stem_kernel_size, 5, *[3] * (len(filters) - 2)]
    x = images
    for index, (width, kernel_size) in enumerate(zip(filters, kernels, strict=True)):
        x = layers.Conv2D(
            width,
            kernel_size,
            strides=stem_strides if index == 0 else 1,
            padding="valid" if index == 0 else "same",
            activation="relu",
            kernel_initializer="he_normal",
        )(x)
        if index in (0, 1, len(filters) - 1):
            x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Flatten()(x)
    for width in units:
        x = layers.Dense(width, activation="relu", kernel_initializer="he_normal")(layers.Dropout(dropout)(x))
    return x
