"""What varies the training pictures on the device, by the draws that feeding made."""

from typing import Any

import keras
from keras import layers, ops

from darkroom.training.variation import Variation


class Draws(layers.Layer):
    """Apply drawn flips, shifts and erased rectangles, in this order, to uint8 pictures on the device.

    Inputs: pictures uint8 (b, H, W, C) and draws int32 (b, variation.n_columns), laid out as variation.columns says.
    Output: uint8 (b, H, W, C); what is erased is 0.
    """

    def __init__(self, variation: Variation) -> None:
        super().__init__(name="apply_draws", dtype="float32")
        self.variation = variation

    def call(self, pictures: Any, draws: Any) -> Any:
        columns = self.variation.columns
        if "flip" in columns:
            flipped = draws[:, columns["flip"], None, None] == 1
            pictures = ops.where(flipped, ops.flip(pictures, axis=2), pictures)
        if "shift" in columns:
            pictures = self._shifted(pictures, draws[:, columns["shift"]])
        if "cutout" in columns:
            edges = ops.full_like(draws[:, :2], self.variation.cutout)
            pictures = _erased(pictures, ops.concatenate([draws[:, columns["cutout"]], edges], axis=1))
        if "erasing" in columns:
            pictures = _erased(pictures, draws[:, columns["erasing"]])
        return pictures

    def _shifted(self, pictures: Any, shifts: Any) -> Any:
        height, width = pictures.shape[1:3]
        from_rows = ops.arange(height, dtype="int32")[None, :] - shifts[:, 0, None]
        from_columns = ops.arange(width, dtype="int32")[None, :] - shifts[:, 1, None]
        if self.variation.shift_fill == "reflect":  # by the index: nothing is copied, and every backend can do it
            from_rows, from_columns = _reflected(from_rows, height), _reflected(from_columns, width)
        else:
            edge = self.variation.shift
            pictures = ops.pad(pictures, [[0, 0], [edge] * 2, [edge] * 2, [0, 0]])
            from_rows, from_columns = from_rows + edge, from_columns + edge
        pictures = ops.take_along_axis(pictures, from_rows[:, :, None, None], axis=1)
        return ops.take_along_axis(pictures, from_columns[:, None, :, None], axis=2)

    def compute_output_spec(self, pictures: Any, _draws: Any) -> Any:
        return keras.KerasTensor(pictures.shape, dtype=pictures.dtype)


def _reflected(index: Any, size: int) -> Any:
    """Return an index that is outside [0, size) mirrored into it, the border itself not repeated: -1 becomes 1."""
    return (size - 1) - ops.abs((size - 1) - ops.abs(index))


def _erased(pictures: Any, rectangles: Any) -> Any:
    """Return the pictures with 0 in the rectangles, int32 (b, 4): top, left, height, width."""
    rows, columns = (ops.arange(size, dtype="int32")[None, :] for size in pictures.shape[1:3])
    top, left, height, width = (rectangles[:, column, None] for column in range(4))
    in_rows = ops.logical_and(rows >= top, rows < top + height)
    in_columns = ops.logical_and(columns >= left, columns < left + width)
    inside = ops.logical_and(in_rows[:, :, None], in_columns[:, None, :])[..., None]
    return ops.where(inside, ops.zeros_like(pictures), pictures)


def with_draws(network: keras.Model, variation: Variation) -> keras.Model:
    """Return the network behind Draws: (pictures, draws int32 (n, columns)) in, the network's logits out.

    The weights are shared. Where nothing is drawn, it takes the network's own input alone.
    """
    pictures = keras.Input(network.input_shape[1:], dtype=network.input.dtype, name="picture")
    name = f"{network.name}_with_draws"
    if not variation.n_columns:
        return keras.Model(pictures, network(pictures), name=name)
    draws = keras.Input((variation.n_columns,), dtype="int32", name="draws")
    return keras.Model([pictures, draws], network(Draws(variation)(pictures, draws)), name=name)
