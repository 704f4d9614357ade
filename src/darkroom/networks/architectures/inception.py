"""Inception v1, known as GoogLeNet."""

from typing import Any, Literal

from keras import layers

from darkroom.networks.architectures.convolution import convolution

# Filters of a module as in the paper's table 1: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; after the pooling.
Filters = tuple[int, int, int, int, int, int]
STAGES: tuple[tuple[Filters, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def inception(
    images: Any,
    *,
    stem: Literal["imagenet", "small"] = "imagenet",
    width: float = 1.0,
    batch_norm: bool = False,
    dropout: float = 0.4,
) -> Any:
    """Return the features of Inception v1 (Szegedy et al. 2015, "Going deeper with convolutions", arXiv:1409.4842).

    The defaults give 6,998,552 parameters on (224, 224, 3) and 1000 classes. Stem (112, 112, 64), pooled (56, 56, 64),
    (56, 56, 192), pooled (28, 28, 192); modules 3a, 3b (28, 28, 480); 4a to 4e (14, 14, 832); 5a, 5b (7, 7, 1024);
    averaged to 1024.

    The two auxiliary classifiers are left out: they exist only in training, to bring gradients to the lower layers, and
    Szegedy et al. (2016, arXiv:1512.00567, section 4) found that they do not speed up early training; with batch_norm
    (as in Ioffe & Szegedy 2015) they are not needed. Local response normalisation is left out as in alexnet. Weights
    are initialised for ReLU (He et al. 2015).

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        stem: "imagenet": 7x7 of stride 2 and two max-pools; "small": 3x3 of stride 1 and no pooling, for images of
            about 32 pixels, whose modules have sizes (32, 32), (16, 16) and (8, 8).
        width: factor on the filters of all convolutions.
        batch_norm: BatchNorm after each convolution, which then has no bias; not in the paper.
        dropout: rate in [0, 1) before the classifier.
    """

    def convolve(x: Any, filters: int, kernel_size: int, strides: int = 1) -> Any:
        return convolution(x, max(1, round(width * filters)), kernel_size, strides=strides, batch_norm=batch_norm)

    def module(x: Any, filters: Filters) -> Any:
        one, reduced_three, three, reduced_five, five, pooled = filters
        return layers.Concatenate()(
            [
                convolve(x, one, 1),
                convolve(convolve(x, reduced_three, 1), three, 3),
                convolve(convolve(x, reduced_five, 1), five, 5),
                convolve(layers.MaxPooling2D(3, 1, padding="same")(x), pooled, 1),
            ]
        )

    if stem == "imagenet":
        x = _halved(convolve(images, 64, 7, strides=2))
        x = _halved(convolve(convolve(x, 64, 1), 192, 3))
    else:
        x = convolve(convolve(convolve(images, 64, 3), 64, 1), 192, 3)
    for stage, modules in enumerate(STAGES):
        x = _halved(x) if stage else x
        for filters in modules:
            x = module(x, filters)
    return layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))


def _halved(x: Any) -> Any:
    return layers.MaxPooling2D(3, 2, padding="same")(x)
