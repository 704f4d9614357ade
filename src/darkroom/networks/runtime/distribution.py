"""Train on several local devices, with batches that divide evenly."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

from darkroom.errors import ParamsError


def distribution() -> AbstractContextManager[Any]:
    """Return the scope for building, compiling and training a network on all devices, each with a share of a batch.

    TensorFlow: MirroredStrategy over the GPUs (or the logical CPUs, if several were configured). JAX:
    keras.distribution.DataParallel (see whole_batches). The number of devices must divide a batch (check_batch_size).
    With one device it has no effect.
    """
    import keras

    if (devices := n_devices()) < 2:
        return nullcontext()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # Keras' distribution API does not work on this backend

        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        names = tuple(device.name for device in tf.config.list_logical_devices(kind)[:devices])
        scope: AbstractContextManager[Any] = _mirrored(names).scope()
        return scope
    parallel: AbstractContextManager[Any] = keras.distribution.DataParallel().scope()
    return parallel


@cache
def _mirrored(names: tuple[str, ...]) -> Any:
    """Return the MirroredStrategy over these devices, the same one for all trainings of a process.

    A second one would number its collective operations from the start again, and TensorFlow would confuse them with
    those of the first.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(names))


@contextmanager
def whole_batches() -> Iterator[None]:
    """Allow batches of any size inside distribution(); every device computes all of a batch.

    JAX refuses batches that the number of devices does not divide, such as the last one of a validation. No effect on
    other backends.
    """
    import keras

    if keras.backend.backend() != "jax":
        yield
        return
    shared = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(shared)


def check_batch_size(batch_size: int) -> None:
    """Refuse a size of training batches that cannot be divided among the devices.

    Raises:
        ParamsError: the number of devices does not divide it.
    """
    if batch_size % (devices := n_devices()):
        raise ParamsError(
            f"batch_size is {batch_size}, which cannot be divided among {devices} devices; set it to a multiple of "
            f"{devices}, or "
            "hide some (CUDA_VISIBLE_DEVICES)"
        )


def n_devices() -> int:
    """Return the number of devices of distribution()."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return len(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))
    return len(keras.distribution.list_devices()) if keras.backend.backend() == "jax" else 1
