"""Estimate BatchNorm's statistics for averaged weights; the running ones belong to the original weights."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import numpy as np
from keras import layers, ops

N_IMAGES = 2000  # maximum number of images


class Batches(Protocol):
    """Training batches (inputs, ...) of batch_size images."""

    batch_size: int

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> tuple[Any, ...]: ...


class Reestimation:
    """Sets the statistics of trainable BatchNorm layers to their means over training batches.

    As in torch.optim.swa_utils.update_bn (Izmailov et al. 2018, arXiv:1803.05407). Random state and frozen layers are
    not changed.

    Args:
        trained: a model of the inputs of the batches.
    """

    def __init__(self, trained: keras.Model) -> None:
        norms = [
            layer for layer in _layers(trained) if isinstance(layer, layers.BatchNormalization) and layer.trainable
        ]
        self._statistics = [
            (norm.momentum, value) for norm in norms for value in (norm.moving_mean, norm.moving_variance)
        ]
        self._in_training = _InTraining(trained)

    def __call__(self, batches: Batches) -> None:
        """Estimate the statistics on the first N_IMAGES images of an epoch."""
        if not self._statistics:
            return
        others = self._in_training.non_trainable_variables
        before = [ops.convert_to_numpy(variable) for variable in others]
        n_batches = min(len(batches), math.ceil(N_IMAGES / batches.batch_size))
        sums = [np.zeros(value.shape) for _, value in self._statistics]
        running = [_numbers(value) for _, value in self._statistics]
        for step in range(n_batches):
            self._in_training.predict_on_batch(batches[step][0])
            for place, (momentum, value) in enumerate(self._statistics):
                old, running[place] = running[place], _numbers(value)
                sums[place] += (running[place] - momentum * old) / (1 - momentum)
        for variable, value in zip(others, before, strict=True):
            variable.assign(value)
        for total, (_, value) in zip(sums, self._statistics, strict=True):
            value.assign((total / n_batches).astype(np.float32))


class _InTraining(keras.Model):
    """A network that predicts in training mode: BatchNorm uses and records the statistics of the batch."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="in_training")
        self.network = network

    def call(self, inputs: Any) -> Any:
        return self.network(inputs, training=True)


def _numbers(variable: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable), np.float64)


def _layers(model: keras.Model) -> Iterator[layers.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
