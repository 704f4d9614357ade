"""The layer that augments training images on the device, from draws made on the CPU."""

from typing import Any

import keras
from keras import layers, ops

from darkroom.training.variation import Variation


class Draws(layers.Layer):
    """Apply drawn flips, shifts and erased rectangles, in this order, to uint8 images on the device.

    Inputs: images uint8 (b, H, W, C) and draws int32 (b, variation.n_columns), see variation.columns.
    Output: uint8 (b, H, W, C); erased pixels are 0.
    """

    def __init__(self, variation: Variation) -> None:
        super().__init__(name="apply_draws", dtype="float32")
        self.variation = variation

    def call(self, images: Any, draws: Any) -> Any:
        columns = self.variation.columns
        if "flip" in columns or "shift" in columns:
            images = self._moved(images, draws)
        if "cutout" in columns:
            edges = ops.full_like(draws[:, :2], self.variation.cutout)
            images = _erased(images, ops.concatenate([draws[:, columns["cutout"]], edges], axis=1))
        if "erasing" in columns:
            images = _erased(images, draws[:, columns["erasing"]])
        return images

    def _moved(self, images: Any, draws: Any) -> Any:
        """Return the flipped and shifted images, with one index per pixel; one axis at a time is 20 times as slow."""
        variation, columns = self.variation, self.variation.columns
        height, width, channels = images.shape[1:]
        rows, places = (ops.arange(size, dtype="int32")[None, :] for size in (height, width))
        if "shift" in columns:
            down, right = columns["shift"].start, columns["shift"].start + 1
            rows, places = rows - draws[:, down, None], places - draws[:, right, None]
            if variation.shift_fill == "reflect":
                rows, places = _reflected(rows, height), _reflected(places, width)
            else:
                edge = variation.shift
                images = ops.pad(images, [[0, 0], [edge] * 2, [edge] * 2, [0, 0]])
                rows, places, width = rows + edge, places + edge, width + 2 * edge
        if "flip" in columns:
            places = ops.where(draws[:, columns["flip"]] == 1, width - 1 - places, places)
        index = rows[:, :, None] * width + places[:, None, :]
        index = ops.broadcast_to(index, (ops.shape(images)[0], *index.shape[1:]))
        pixels = ops.reshape(images, (-1, images.shape[1] * width, channels))
        # Image by image, so that a batch that is divided among devices stays there.
        return ops.vectorized_map(lambda image: ops.take(image[0], image[1], axis=0), (pixels, index))

    def compute_output_spec(self, images: Any, _draws: Any) -> Any:
        return keras.KerasTensor(images.shape, dtype=images.dtype)


def _reflected(index: Any, size: int) -> Any:
    """Return an index outside [0, size) reflected into it, without repeating the border: -1 becomes 1."""
    return (size - 1) - ops.abs((size - 1) - ops.abs(index))


def _erased(images: Any, rectangles: Any) -> Any:
    """Return the images with 0 in the rectangles, int32 (b, 4): top, left, height, width."""
    rows, columns = (ops.arange(size, dtype="int32")[None, :] for size in images.shape[1:3])
    top, left, height, width = (rectangles[:, column, None] for column in range(4))
    in_rows = ops.logical_and(rows >= top, rows < top + height)
    in_columns = ops.logical_and(columns >= left, columns < left + width)
    inside = ops.logical_and(in_rows[:, :, None], in_columns[:, None, :])[..., None]
    return ops.where(inside, ops.zeros_like(images), images)


def with_draws(network: keras.Model, variation: Variation) -> keras.Model:
    """Return the network after Draws: (images, draws int32 (n, columns)) in, the network's logits out.

    The weights are shared. Without augmentation, the input is that of the network.
    """
    images = keras.Input(network.input_shape[1:], dtype=network.input.dtype, name="picture")
    name = f"{network.name}_with_draws"
    if not variation.n_columns:
        return keras.Model(images, network(images), name=name)
    draws = keras.Input((variation.n_columns,), dtype="int32", name="draws")
    return keras.Model([images, draws], network(Draws(variation)(images, draws)), name=name)
