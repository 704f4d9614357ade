"""Train a network: epochs, resume, the best epoch. Callbacks report progress; nothing here prints or logs."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from darkroom.errors import TrainingError
from darkroom.networks.runtime.distribution import n_devices, whole_batches
from darkroom.training.answers import packed
from darkroom.training.batches import PlainBatches
from darkroom.training.checkpoints import Checkpoint, Progress
from darkroom.training.optimizers import averaged_weights, is_averaging
from darkroom.training.schedules import Plateau, Schedule
from darkroom.training.statistics import Reestimation
from darkroom.training.variation import Variation
from darkroom.training.variation_layer import with_draws

PLAIN_LOSS = "cross_entropy"  # without label smoothing and class weights


class Batches(Protocol):
    """Training batches: a sequence of (inputs, labels) or (inputs, labels, weights); labels are float (b, classes).

    batch_size is the number of images of a full batch.
    """

    batch_size: int

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class Phase:
    """The settings of a phase of training.

    Attributes:
        epochs: including those before a resume.
        optimizer: not yet built; one per phase. If it averages the weights, the averages are validated and kept.
        name: for every row of the history.
        label_smoothing: in [0, 1), of the minimised loss; train_loss and val_loss are the plain cross-entropy, also
            without class weights, so that they are comparable.
        variation: the draws of the batches, which fit() applies.
        early_stopping: {metric, patience}: stop after `patience` epochs of this phase without improvement.
        keep: "best" or "last": with a schedule that ends near 0 the last epoch is usually the best, and few validation
            images cannot distinguish it from the one before.
        plateau: decides after which epochs to lower the learning rate of `schedule`, which is the optimizer's.
    """

    epochs: int
    optimizer: keras.optimizers.Optimizer
    name: str = "training"
    label_smoothing: float = 0.0
    variation: Variation = field(default_factory=Variation)
    early_stopping: Mapping[str, Any] | None = None
    keep: str = "best"
    plateau: Plateau | None = None
    schedule: Schedule | None = None


def fit(
    network: keras.Model,
    phase: Phase,
    *,
    train: Callable[[int], Batches],
    validation: PlainBatches,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch_end: Callable[[int, dict[str, float]], None] | None = None,
) -> Progress:
    """Train the network in place for a phase and return the progress over all phases so far.

    The best epoch of all phases has the highest validation accuracy and, among equals, the lowest validation loss; with
    keep "last" it is the last one. If it is in this phase, the network ends with its weights. With a checkpoint of
    earlier epochs, training resumes after them: weights, optimizer, random state and best epoch are restored. A phase
    that the checkpoint has completed is not trained again.

    Args:
        network: images (or features) in, logits out.
        train: returns the batches after a number of epochs, counted over all phases.
        validation: images (or features) and their labels, without augmentation.
        progress: returned for the previous phase; None for the first.
        checkpoint: where to save every epoch.
        on_step: called with (step, steps) of the epoch.
        on_epoch_end: called with the epoch, counted from 1 over all phases, and train_loss, val_loss, train_accuracy,
            val_accuracy, learning_rate and images_per_second (of training alone).

    Raises:
        TrainingError: the loss is not finite, or the checkpoint belongs to another network.
    """
    optimizer, plateau = phase.optimizer, phase.plateau
    trained = with_draws(network, phase.variation)
    reestimate = Reestimation(trained) if is_averaging(optimizer) else None
    state = trained.variables  # weights and random state, before compile() adds those of the metrics
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=phase.label_smoothing)
    plain = keras.metrics.CategoricalCrossentropy(PLAIN_LOSS, from_logits=True)
    trained.compile(optimizer, loss, metrics=["accuracy", plain])  # Keras does not weight metrics
    optimizer.build(trained.trainable_variables)
    variables = [*state, *optimizer.variables]
    kept = checkpoint.load() if checkpoint else None
    progress = kept[0] if kept else progress or Progress()
    best = kept[2] if kept and progress.best_phase == phase.name else None
    if kept and progress.phase == phase.name:
        _assign(variables, kept[1])
        if plateau and progress.plateau:
            plateau.restore(progress.plateau)
    is_behind = progress.phase != phase.name and phase.name in progress.phases
    while not is_behind and not _is_over(progress, phase):
        epoch, started = progress.epoch + 1, time.perf_counter()
        record, weights, right = _run_epoch(
            trained, network, train(progress.epoch), validation, reestimate=reestimate, on_step=on_step
        )
        _check_finite(record, epoch=epoch)
        ranks = (record["val_accuracy"], -record["val_loss"])
        if better := phase.keep == "last" or ranks > (progress.best_val_accuracy, -progress.best_val_loss):
            best = weights
            progress.best_epoch, progress.best_val_accuracy, progress.best_val_loss = epoch, ranks[0], -ranks[1]
            progress.best_right = packed(right)
        if plateau and phase.schedule and plateau.update(record[plateau.metric]):
            plateau.lower(phase.schedule)
        progress.plateau = plateau.state() if plateau else None
        progress.phase, progress.epoch = phase.name, epoch
        progress.train_seconds += time.perf_counter() - started
        progress.history.append({"epoch": epoch, "phase": phase.name, **record})
        # Reported before it is saved: a kill in between reports an epoch twice, but never omits one.
        if on_epoch_end:
            on_epoch_end(epoch, record)
        if checkpoint:
            arrays = [ops.convert_to_numpy(variable) for variable in variables]
            checkpoint.save(progress, variables=arrays, best=best if better else None)
    if best is not None:
        network.set_weights(best)
    return progress


def _run_epoch(
    trained: keras.Model,
    network: keras.Model,
    batches: Batches,
    validation: PlainBatches,
    *,
    reestimate: Reestimation | None,
    on_step: Callable[[int, int], None] | None,
) -> tuple[dict[str, float], list[np.ndarray], np.ndarray]:
    """Train and validate once; return the record, the validated weights, and the mask of correct images."""
    learning_rate = float(ops.convert_to_numpy(trained.optimizer.learning_rate))
    started = time.perf_counter()
    # shuffle=False: Keras would shuffle the batches again, with a random state that a resume does not restore.
    reports = [_Steps(len(batches), on_step)]
    logs = trained.fit(_Feed(batches), epochs=1, shuffle=False, verbose=0, callbacks=reports).history
    seconds = time.perf_counter() - started
    own = network.get_weights() if reestimate else None
    if reestimate:
        network.set_weights(averaged_weights(trained.optimizer, network.weights))
        reestimate(batches)
    elif n_devices() > 1:  # TensorFlow's devices have separate BatchNorm statistics, of which one is deployed
        network.set_weights(network.get_weights())
    val_loss, right = _validate(network, validation)
    weights = network.get_weights()
    if own is not None:
        network.set_weights(own)
    record = {
        "train_loss": logs[PLAIN_LOSS][0],
        "val_loss": val_loss,
        "train_accuracy": logs["accuracy"][0],
        "val_accuracy": float(right.mean()),
        "learning_rate": learning_rate,
        "images_per_second": len(batches) * batches.batch_size / seconds,
    }
    return record, weights, right


def _validate(network: keras.Model, validation: PlainBatches) -> tuple[float, np.ndarray]:
    """Return the mean cross-entropy, and the mask of correct images: bool (n,).

    With predict(), because evaluate() fails on several devices of TensorFlow if the first batch cannot be divided
    evenly, as for a small validation split.
    """
    with whole_batches():
        logits = network.predict(_Feed(validation), verbose=0)
    losses = ops.sparse_categorical_crossentropy(validation.labels, logits, from_logits=True)
    return float(ops.convert_to_numpy(losses).mean()), logits.argmax(axis=1) == validation.labels


def _is_over(progress: Progress, phase: Phase) -> bool:
    rows = [row for row in progress.history if row["phase"] == phase.name]
    if phase.early_stopping and rows:
        metric, patience = phase.early_stopping["metric"], phase.early_stopping["patience"]
        if epochs_without_gain([row[metric] for row in rows], metric=metric) >= patience:
            return True
    return len(rows) >= phase.epochs


def epochs_without_gain(values: Sequence[float], *, metric: str) -> int:
    """Return the number of epochs since a metric was first best: losses are best low, accuracies high."""
    signed = [-value if metric.endswith("loss") else value for value in values]
    return len(values) - 1 - signed.index(max(signed))


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
        raise TrainingError("the checkpoint belongs to another network; delete .darkroom/checkpoints to start over")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class _Feed(keras.utils.PyDataset):
    """Batches as a Keras dataset."""

    def __init__(self, batches: Batches) -> None:
        super().__init__(workers=1)
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        return self._batches[step]


class _Steps(keras.callbacks.Callback):
    """Reports steps; stops within 50 steps if the loss is not finite (reading it each step would stall a GPU)."""

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
