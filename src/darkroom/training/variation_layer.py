"""The layer that augments training images on the device, from draws made on the CPU."""

from typing import Any

import keras
from keras import layers, ops

from darkroom.training.variation import Variation


class Draws(layers.Layer):
    """Apply drawn flips, shifts and erased rectangles, in this order, to uint8 images on the device.

    Inputs: images uint8 (b, H, W, C) and draws int32 (b, variation.n_columns), laid out as variation.columns says.
    Output: uint8 (b, H, W, C); what is erased is 0.
    """

    def __init__(self, variation: Variation) -> None:
        super().__init__(name="apply_draws", dtype="float32")
        self.variation = variation

    def call(self, images: Any, draws: Any) -> Any:
        columns = self.variation.columns
        if "flip" in columns:
            flipped = draws[:, columns["flip"], None, None] == 1
            images = ops.where(flipped, ops.flip(images, axis=2), images)
        if "shift" in columns:
            images = self._shifted(images, draws[:, columns["shift"]])
        if "cutout" in columns:
            edges = ops.full_like(draws[:, :2], self.variation.cutout)
            images = _erased(images, ops.concatenate([draws[:, columns["cutout"]], edges], axis=1))
        if "erasing" in columns:
            images = _erased(images, draws[:, columns["erasing"]])
        return images

    def _shifted(self, images: Any, shifts: Any) -> Any:
        height, width = images.shape[1:3]
        from_rows = ops.arange(height, dtype="int32")[None, :] - shifts[:, 0, None]
        from_columns = ops.arange(width, dtype="int32")[None, :] - shifts[:, 1, None]
        if self.variation.shift_fill == "reflect":  # by the index: nothing is copied, and every backend can do it
            from_rows, from_columns = _reflected(from_rows, height), _reflected(from_columns, width)
        else:
            edge = self.variation.shift
            images = ops.pad(images, [[0, 0], [edge] * 2, [edge] * 2, [0, 0]])
            from_rows, from_columns = from_rows + edge, from_columns + edge
        images = ops.take_along_axis(images, from_rows[:, :, None, None], axis=1)
        return ops.take_along_axis(images, from_columns[:, None, :, None], axis=2)

    def compute_output_spec(self, images: Any, _draws: Any) -> Any:
        return keras.KerasTensor(images.shape, dtype=images.dtype)


def _reflected(index: Any, size: int) -> Any:
    """Return an index that is outside [0, size) mirrored into it, the border itself not repeated: -1 becomes 1."""
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
    """Return the network behind Draws: (images, draws int32 (n, columns)) in, the network's logits out.

    The weights are shared. Where nothing is drawn, it takes the network's own input alone.
    """
    images = keras.Input(network.input_shape[1:], dtype=network.input.dtype, name="picture")
    name = f"{network.name}_with_draws"
    if not variation.n_columns:
        return keras.Model(images, network(images), name=name)
    draws = keras.Input((variation.n_columns,), dtype="int32", name="draws")
    return keras.Model([images, draws], network(Draws(variation)(images, draws)), name=name)
