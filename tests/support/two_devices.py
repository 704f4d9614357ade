"""Trains the same small network on one and on two devices of KERAS_BACKEND; prints the differences.

A process of its own for each backend: devices cannot be split once they are in use.
"""

import json
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
from keras import layers

from darkroom.networks.runtime import device, distribution
from darkroom.training import optimizers, schedules

PICTURES = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)
LABELS = np.arange(32) % 2
PICTURES += 0.5 * LABELS[:, None, None, None]
ONE_HOT = np.eye(2, dtype=np.float32)[LABELS]


def train(scope: Any, **arguments: Any) -> tuple[list[np.ndarray], float, int]:
    """Return the averaged weights after 8 steps, the loss of a validation with an odd batch, and how many devices."""
    with scope:
        keras.utils.set_random_seed(3)
        network = keras.Sequential([layers.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
        schedule = schedules.Schedule("one_cycle", peak=0.05, total_steps=8, steps_per_epoch=2, warmup=0.2)
        optimizer = optimizers.make_optimizer(learning_rate=schedule, weight_decay=0.1, **arguments)
        network.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
        network.fit(PICTURES, ONE_HOT, batch_size=16, epochs=3, shuffle=False, verbose=0)
        with distribution.whole_batches():
            loss = network.evaluate(PICTURES[:31], ONE_HOT[:31], batch_size=16, verbose=0)
        network.fit(PICTURES, ONE_HOT, batch_size=16, epochs=1, shuffle=False, verbose=0)
        return optimizers.averaged_weights(optimizer, network.weights), loss, distribution.n_devices()


def main() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [half, half])
    device.prepare("cpu")
    for arguments in (
        {"name": "sgd", "clip_norm": 0.05, "averaging": 0.5, "loss_scaling": True},
        {"name": "muon"},
    ):
        alone, loss, _ = train(nullcontext(), **arguments)
        shared, shared_loss, n_devices = train(distribution.distribution(), **arguments)
        weights = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(alone, shared, strict=True))
        print(json.dumps({"n_devices": n_devices, "of_weights": weights, "of_loss": abs(loss - shared_loss)}))


if __name__ == "__main__":
    main()
