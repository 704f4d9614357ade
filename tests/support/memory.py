"""A network whose batches do not fit into memory."""

from typing import Any

import pytest


def out_of_memory_above(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches above `size` fail as TensorFlow does, in the step that they are computed in."""
    import keras
    import tensorflow as tf

    from darkroom.networks import build

    class Greedy(keras.layers.Layer):
        def call(self, x: Any, training: bool = False) -> Any:
            def checked(values: Any) -> Any:
                if len(values) > size:
                    raise MemoryError("OOM when allocating")  # TensorFlow makes a ResourceExhaustedError of it
                return values

            if not training:
                return x
            return x + 0 * tf.ensure_shape(tf.numpy_function(checked, [x], x.dtype, stateful=False), x.shape)

    build_as_it_is = build.build

    def greedy(*args: Any, **kwargs: Any) -> Any:
        network = build_as_it_is(*args, **kwargs)
        return keras.Model(network.input, Greedy()(network.output))

    monkeypatch.setattr(build, "build", greedy)
