"""The default network: small and fast on CPUs."""

from typing import Any, Literal

from keras import layers


def compact(
    images: Any,
    *,
    filters: list[int],
    stem_kernel_size: int = 5,
    head: Literal["flatten", "average"] = "flatten",
    dropout: float = 0.0,
) -> Any:
    """Return the features of a small VGG-like network: convolution, max-pool, BatchNorm, ReLU per entry of `filters`.

    The order is chosen for speed on CPUs: pooling first leaves a quarter of the values for BatchNorm and ReLU (ReLU
    commutes with max-pooling; BatchNorm normalises the maxima just as well). The stem has no padding, because an
    image's border is rarely important.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        filters: width of each block; every block halves height and width, so at most log2(min(H, W)) blocks fit.
        stem_kernel_size: edge of the first kernel, in pixels.
        head: "flatten" keeps positions (best for centred images up to about 32 px), "average" pools globally (for
            photographs).
        dropout: rate in [0, 1) before the classifier.
    """
    x = images
    for block, width in enumerate(filters):
        size, padding = (stem_kernel_size, "valid") if block == 0 else (3, "same")
        x = layers.Conv2D(width, size, padding=padding, use_bias=False)(x)
        x = layers.MaxPooling2D()(x)
        # 0.9 instead of Keras' 0.99: a few hundred steps must be enough for the running statistics.
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu")(x)
    x = layers.Flatten()(x) if head == "flatten" else layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(dropout)(x) if dropout else x
