"""The learning-rate range test (Smith 2017, https://arxiv.org/abs/1506.01186)."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from darkroom.errors import TrainingError


@keras.saving.register_keras_serializable(package="darkroom")
class ExponentialRise(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule from `start` in step 0 to `end` in step n_steps - 1, by the same factor each step (Smith 2017)."""

    def __init__(self, start: float, end: float, *, n_steps: int) -> None:
        self.start, self.end, self.n_steps = start, end, n_steps

    def __call__(self, step: Any) -> Any:
        share = ops.cast(step, "float32") / max(1, self.n_steps - 1)
        return self.start * ops.exp(share * math.log(self.end / self.start))

    def rates(self) -> np.ndarray:
        """Return the learning rates of all steps, (n_steps,) float64."""
        return np.geomspace(self.start, self.end, self.n_steps)

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "n_steps": self.n_steps}


DIVERGED = 4.0  # times the smallest so far: a mean loss beyond it ends the test
MEAN_OF = 5  # losses, because the loss of one batch is noisy


class Batches(Protocol):
    """One epoch of batches: (inputs, one-hot labels), or (inputs, one-hot labels, weights)."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> tuple[Any, ...]: ...


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a range test.

    Attributes:
        learning_rates: (steps,) rising; fewer than n_steps if the loss diverged.
        losses: (steps,) of the batch, before its step.
        smoothed: (steps,) losses, each the mean of those around it.
        suggestion: the rate at which the smoothed loss falls most steeply.
        cautious: a tenth of greatest, or the suggestion if that is smaller.
        greatest: the rate at which the smoothed loss is smallest; above it training becomes unstable. The peak of a
            one-cycle schedule can be near it, a constant rate cannot.
        diverged: whether the loss rose so far that the test ended early.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float
    cautious: float
    greatest: float
    diverged: bool


def find(
    network: keras.Model,
    train: Callable[[int], Batches],
    *,
    optimizer: Callable[[ExponentialRise], keras.optimizers.Optimizer],
    start: float = 1e-6,
    end: float = 10.0,
    n_steps: int = 100,
    label_smoothing: float = 0.0,
    on_step: Callable[[int, int], object] | None = None,
) -> Finding:
    """Train with an exponentially rising learning rate, and return how the loss responded.

    Afterwards the network's weights, random state and BatchNorm statistics are restored; compile it again.

    Args:
        network: maps the batches' inputs to logits.
        train: returns the batches of an epoch, counted from 0; epochs are repeated until n_steps are done.
        optimizer: makes the optimizer for a schedule.
        start, end: learning rates of the first and the last step, 0 < start < end.
        n_steps: at least 10.
        label_smoothing: in [0, 1), of the loss.
        on_step: called with (step, n_steps).

    Raises:
        TrainingError: n_steps, start or end are out of range, or the loss never falls.
    """
    if n_steps < 10 or not 0 < start < end:
        raise TrainingError(
            f"{n_steps} steps from a learning rate of {start:g} to {end:g}: expected at least 10 steps, and a range "
            "that rises from above 0"
        )
    schedule = ExponentialRise(start, end, n_steps=n_steps)
    before = [np.array(ops.convert_to_numpy(variable)) for variable in network.variables]
    variables = list(network.variables)  # before compile() adds those of the metrics
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    network.compile(optimizer(schedule), loss)
    losses: list[float] = []
    least = math.inf
    try:
        for step, batch in zip(range(n_steps), _endless(train), strict=False):
            network.reset_metrics()  # the loss that train_on_batch returns is the mean since then
            losses.append(float(network.train_on_batch(*batch)))
            if on_step:
                on_step(step + 1, n_steps)
            mean = sum(losses[-MEAN_OF:]) / len(losses[-MEAN_OF:])
            least = min(least, mean)
            if not mean <= DIVERGED * least:  # nor is NaN
                break
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
    return interpret(schedule.rates()[: len(losses)], np.array(losses), diverged=len(losses) < n_steps)


def _endless(train: Callable[[int], Batches]) -> Iterator[tuple[Any, ...]]:
    epoch = 0
    while True:
        batches = train(epoch)
        yield from (batches[step] for step in range(len(batches)))
        epoch += 1


def interpret(learning_rates: np.ndarray, losses: np.ndarray, *, diverged: bool) -> Finding:
    """Return the result for the losses (n,) at rising learning rates (n,); losses that are not finite are ignored.

    Raises:
        TrainingError: the loss never falls.
    """
    finite = np.isfinite(losses)
    learning_rates, losses = learning_rates[finite], losses[finite]
    smoothed = smooth(losses)
    least = int(np.argmin(smoothed)) if len(smoothed) else 0
    if least < 2:
        raise TrainingError(
            f"the loss fell at none of the {len(losses)} learning rates tried; check the labels and the images, or "
            "start lower"
        )
    slopes = np.gradient(smoothed, np.log(learning_rates))
    steepest = int(np.argmin(slopes[: least + 1]))
    return Finding(
        learning_rates=learning_rates,
        losses=losses,
        smoothed=smoothed,
        suggestion=_two_digits(learning_rates[steepest]),
        cautious=_two_digits(min(learning_rates[least] / 10, learning_rates[steepest])),
        greatest=_two_digits(learning_rates[least]),
        diverged=diverged,
    )


def smooth(losses: np.ndarray) -> np.ndarray:
    """Smooth the losses (n,) with a Gaussian whose standard deviation is n / 40, at least 1.

    The usual trailing mean would move the steepest fall to a higher rate than the one that caused it.
    """
    width = max(1.0, len(losses) / 40)
    places = np.arange(len(losses))
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / width) ** 2)
    return np.asarray(weights @ losses / weights.sum(axis=1))


def _two_digits(rate: float) -> float:
    return float(f"{rate:.1e}")
