"""fit(): schedule, precision, checkpoints, resume. The core reports, the edge records: nothing here prints or logs."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from darkroom import models
from darkroom.checkpoints import Checkpoint, Progress
from darkroom.errors import ParamsError, TrainingError

SCHEDULES = ("one_cycle", "cosine", "constant")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
PRECISIONS = ("auto", "float32", "bfloat16")


class Batches(Protocol):
    """What feeds fit(): a sequence of (inputs, one-hot labels); batch_size is the number of pictures in a full one."""

    batch_size: int

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> tuple[Any, np.ndarray]: ...


def policy(precision: str) -> str:
    """Return the Keras dtype policy for a precision; "auto" is bfloat16 where the device computes in it, else float32.

    CPUs that compute in bfloat16 announce AMX or AVX512-BF16; of NVIDIA's GPUs all since Ampere do. Where there is a
    GPU, it alone decides.

    Raises:
        ParamsError: unknown precision.
    """
    if precision not in PRECISIONS:
        raise ParamsError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        of_gpu = _gpu_has_bfloat16()
        precision = "bfloat16" if (_cpu_has_bfloat16() if of_gpu is None else of_gpu) else "float32"
    return precision if precision == "float32" else f"mixed_{precision}"


def _cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _gpu_has_bfloat16() -> bool | None:
    """Return whether every GPU computes in bfloat16, None where there is none."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf  # Keras has no call for a device's compute capability

        details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
        return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details) if details else None
    if backend == "jax":
        import jax  # likewise

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        return all(float(device.compute_capability) >= 8.0 for device in gpus) if gpus else None
    return None


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of a step: a linear rise to `peak`, then the named way down to a thousandth of it.

    one_cycle (Smith & Topin 2018, in its linear form) and cosine (Loshchilov & Hutter 2017) rise over the share
    `warmup` of all steps; constant stays at `peak` after it.
    """

    def __init__(self, name: str, *, peak: float, total_steps: int, warmup: float) -> None:
        if name not in SCHEDULES:
            raise ParamsError(f"schedule is {name!r}, expected one of {', '.join(SCHEDULES)}")
        self.name, self.peak, self.total_steps, self.warmup = name, peak, total_steps, warmup

    def __call__(self, step: Any) -> Any:
        share = ops.cast(step, "float32") / max(1, self.total_steps)
        rise = (ops.cast(step, "float32") + 1) / max(1.0, self.warmup * self.total_steps)
        done = ops.clip((share - self.warmup) / max(1e-9, 1 - self.warmup), 0.0, 1.0)
        if self.name == "one_cycle":
            fall = 1 - 0.999 * done
        elif self.name == "cosine":
            fall = 0.001 + 0.999 * 0.5 * (1 + ops.cos(math.pi * done))
        else:
            fall = ops.ones_like(done)
        return self.peak * ops.minimum(rise, fall)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "peak": self.peak, "total_steps": self.total_steps, "warmup": self.warmup}


def make_optimizer(name: str, *, learning_rate: Any, weight_decay: float) -> keras.optimizers.Optimizer:
    """Return the optimizer; weight decay is decoupled and spares biases and BatchNorm, as is usual.

    Raises:
        ParamsError: unknown name.
    """
    decay = weight_decay or None
    match name:
        case "adam":
            optimizer = keras.optimizers.Adam(learning_rate, weight_decay=decay)
        case "adamw":
            optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=decay)
        case "sgd":
            optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True, weight_decay=decay)
        case "rmsprop":
            optimizer = keras.optimizers.RMSprop(learning_rate, weight_decay=decay)
        case _:
            raise ParamsError(f"optimizer is {name!r}, expected one of {', '.join(OPTIMIZERS)}")
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def fit(
    network: keras.Model,
    *,
    train: Callable[[int], Batches],
    validation: Batches,
    epochs: int,
    optimizer: keras.optimizers.Optimizer,
    label_smoothing: float = 0.0,
    draws: dict[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch_end: Callable[[int, dict[str, float]], None] | None = None,
) -> Progress:
    """Train the network in place, leave the weights of its best epoch in it, and return what the epochs brought.

    The best epoch has the highest validation accuracy; among equals, the lowest validation loss. With a checkpoint that
    holds earlier epochs, training goes on behind them: weights, optimizer, random state and best epoch are restored.

    Args:
        network: uint8 pictures in, logits out.
        train: gives the batches of an epoch (counted from 0), as (pictures, draws) and one-hot labels.
        validation: batches of pictures and one-hot labels.
        epochs: how many in all, those before a resume included.
        optimizer: not yet built.
        label_smoothing: in [0, 1); of the training loss alone, val_loss is the plain cross-entropy.
        draws: the arguments of models.Draws: shift, flip, cutout; None for no variation.
        checkpoint: where to keep the end of every epoch.
        on_step: called with (step, steps) of the epoch.
        on_epoch_end: called with the epoch and train_loss, val_loss, train_accuracy, val_accuracy, learning_rate and
            images_per_second (of training alone).

    Raises:
        TrainingError: the loss is not finite.
    """
    trained = models.with_draws(network, **(draws or {"shift": 0, "flip": False, "cutout": 0}))
    state = trained.variables  # weights and random state; asked before compile() adds the metrics'
    loss = keras.losses.CategoricalCrossentropy
    trained.compile(optimizer, loss(from_logits=True, label_smoothing=label_smoothing), metrics=["accuracy"])
    network.compile(loss=loss(from_logits=True), metrics=["accuracy"])
    optimizer.build(trained.trainable_variables)
    variables = [*state, *optimizer.variables]
    progress, best = Progress(), network.get_weights()
    if checkpoint and (kept := checkpoint.load()):
        progress, last, best = kept
        _assign(variables, last)
    for epoch in range(progress.epoch, epochs):
        batches = train(epoch)
        learning_rate = float(ops.convert_to_numpy(optimizer.learning_rate))
        started = time.perf_counter()
        # shuffle=False: Keras would shuffle the batches once more, from a state that a resume does not have.
        reports = [_Steps(len(batches), on_step)]
        logs = trained.fit(_Feed(batches), epochs=1, shuffle=False, verbose=0, callbacks=reports).history
        seconds = time.perf_counter() - started
        val_loss, val_accuracy = network.evaluate(_Feed(validation), verbose=0)
        record = {
            "train_loss": logs["loss"][0],
            "val_loss": val_loss,
            "train_accuracy": logs["accuracy"][0],
            "val_accuracy": val_accuracy,
            "learning_rate": learning_rate,
            "images_per_second": len(batches) * batches.batch_size / seconds,
        }
        _check_finite(record, epoch=epoch)
        better = (val_accuracy, -val_loss) > (progress.best_val_accuracy, -progress.best_val_loss)
        if better:
            best = network.get_weights()
            progress.best_epoch, progress.best_val_accuracy, progress.best_val_loss = epoch, val_accuracy, val_loss
        progress.epoch = epoch + 1
        progress.train_seconds += time.perf_counter() - started
        progress.history.append({"epoch": epoch, **record})
        # Reported before it is kept: a kill between the two reports an epoch twice, and never leaves one out.
        if on_epoch_end:
            on_epoch_end(epoch, record)
        if checkpoint:
            arrays = [ops.convert_to_numpy(variable) for variable in variables]
            checkpoint.save(progress, variables=arrays, best=best if better else None)
    network.set_weights(best)
    return progress


def _check_finite(record: dict[str, float], *, epoch: int) -> None:
    for name in ("train_loss", "val_loss"):
        if not math.isfinite(record[name]):
            raise TrainingError(
                f"{name} is {record[name]} after epoch {epoch}: training has diverged; lower learning_rate, or use "
                "precision float32"
            )


def _assign(variables: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [array.shape for array in arrays]:
        raise TrainingError("the checkpoint belongs to another network; delete .darkroom/checkpoints to start anew")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class _Feed(keras.utils.PyDataset):
    """Batches as Keras takes them."""

    def __init__(self, batches: Batches) -> None:
        super().__init__(workers=1)
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> tuple[Any, np.ndarray]:
        return self._batches[step]


class _Steps(keras.callbacks.Callback):
    """Reports steps; stops within 50 of them when the loss is not finite (reading it each step would stall a GPU)."""

    def __init__(self, steps: int, on_step: Callable[[int, int], None] | None) -> None:
        super().__init__()
        self._steps, self._on_step = steps, on_step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch % 50 == 0 and logs and not math.isfinite(float(logs["loss"])):
            raise TrainingError(
                f"the loss is {float(logs['loss'])} at step {batch}: training has diverged; lower learning_rate, or "
                "use precision float32"
            )
        if self._on_step:
            self._on_step(batch + 1, self._steps)
