"""VGG."""

from typing import Any, Literal

from keras import layers

from darkroom.networks.architectures.convolution import convolution

# Convolutions per block; the columns A, B, D and E of the paper's table 1.
BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


def vgg(
    images: Any,
    *,
    depth: Literal[11, 13, 16, 19],
    units: list[int],
    width: float = 1.0,
    head: Literal["flatten", "average"] = "flatten",
    batch_norm: bool = False,
    dropout: float = 0.5,
) -> Any:
    """Return the features of VGG (Simonyan & Zisserman 2015, "Very deep convolutional networks for large-scale image
    recognition", arXiv:1409.1556).

    units=[4096, 4096] and the defaults give, on (224, 224, 3) and 1000 classes, 132,863,336 parameters at depth 11,
    133,047,848 at 13, 138,357,544 at 16 and 143,667,240 at 19. The blocks, each ended by a max-pool that halves:
    (224, 224, 64), (112, 112, 128), (56, 56, 256), (28, 28, 512), (14, 14, 512), pooled (7, 7, 512), flat 25088.

    The paper initialised deep networks from a trained shallow one (section 3.1); here weights are initialised for ReLU
    (He et al. 2015). For images of 32 pixels a usual choice is units=[], batch_norm=True.

    Args:
        images: symbolic (n, H, W, C), scaled to [0, 1].
        depth: layers with weights, counting the paper's two dense layers and classifier.
        units: of each dense layer before the classifier; may be empty.
        width: factor on the filters of all convolutions.
        head: "flatten" as in the paper, "average" pools globally, which saves most of the weights.
        batch_norm: BatchNorm after each convolution, which then has no bias; not in the paper.
        dropout: rate in [0, 1) after each dense layer, or before the classifier without dense layers.
    """
    x = images
    for n_convolutions, filters in zip(BLOCKS[depth], WIDTHS, strict=True):
        for _ in range(n_convolutions):
            x = convolution(x, max(1, round(width * filters)), 3, batch_norm=batch_norm)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x) if head == "flatten" else layers.GlobalAveragePooling2D()(x)
    for n_units in units:
        x = layers.Dense(n_units, activation="relu", kernel_initializer="he_normal")(x)
        x = layers.Dropout(dropout)(x)
    return x if units else layers.Dropout(dropout)(x)
