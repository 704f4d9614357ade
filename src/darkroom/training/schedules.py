"""The learning rate as a function of the optimizer's step, so that a resumed training continues it."""

import math
from typing import Any

import keras
from keras import ops

from darkroom.errors import ParamsError

SCHEDULES = ("one_cycle", "cosine", "constant", "step", "plateau")
END = 0.001  # of the peak, where one_cycle and cosine end


@keras.saving.register_keras_serializable(package="darkroom")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of a step: a linear rise to `peak` over the share `warmup` of all steps, then by `name`:

    one_cycle falls linearly to a thousandth of the peak (Smith & Topin 2018, in its linear form), cosine along half a
    cosine (Loshchilov & Hutter 2017). step is multiplied by `factor` after every `every` epochs, constant stays.
    plateau is multiplied by its variable `scale`, which fit() lowers; optimizers.make_optimizer adds it to the
    optimizer's variables, so that checkpoints save it and compiled steps read it.

    Args:
        name: one of SCHEDULES.
        peak: the highest learning rate.
        total_steps: of all epochs together.
        steps_per_epoch: at least 1.
        warmup: share of all steps in which the learning rate rises, in [0, 1).
        every: epochs between falls of the schedule `step`; others ignore it.
        factor: in (0, 1), of that fall; others ignore it (that of a plateau is in Plateau).

    Raises:
        ParamsError: unknown name, or `step` without every or factor.
    """

    def __init__(
        self,
        name: str,
        *,
        peak: float,
        total_steps: int,
        steps_per_epoch: int,
        warmup: float,
        every: int | None = None,
        factor: float | None = None,
    ) -> None:
        if name not in SCHEDULES:
            raise ParamsError(f"schedule is {name!r}, expected one of {', '.join(SCHEDULES)}")
        if name == "step" and (every is None or factor is None):
            raise ParamsError(f"the schedule step has every {every!r} and factor {factor!r}, expected numbers")
        self.name, self.peak, self.warmup = name, peak, warmup
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.every, self.factor = (every, factor) if name == "step" else (None, None)
        self.scale = keras.Variable(1.0, trainable=False, name="scale") if name == "plateau" else None

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step, float32, counted from 0."""
        step = ops.cast(step, "float32")
        rise = (step + 1) / max(1.0, self.warmup * self.total_steps)
        share = step / max(1, self.total_steps)
        done = ops.clip((share - self.warmup) / max(1e-9, 1 - self.warmup), 0.0, 1.0)
        fall: Any = 1.0
        if self.name == "one_cycle":
            fall = 1 - (1 - END) * done
        elif self.name == "cosine":
            fall = END + (1 - END) * 0.5 * (1 + ops.cos(math.pi * done))
        elif self.every is not None and self.factor is not None:
            # Plus a half, because in float32 a quotient that should be an integer may be slightly smaller.
            falls = ops.floor((step + 0.5) / (self.every * self.steps_per_epoch))
            fall = ops.power(self.factor, falls)
        elif self.scale is not None:
            fall = ops.convert_to_tensor(self.scale)
        return self.peak * ops.minimum(rise, fall)

    def get_config(self) -> dict[str, Any]:
        names = ("name", "peak", "total_steps", "steps_per_epoch", "warmup", "every", "factor")
        return {name: getattr(self, name) for name in names}


class Plateau:
    """Decides after which epochs to lower the learning rate of the schedule `plateau`.

    Args:
        metric: train_loss, val_loss, train_accuracy or val_accuracy.
        patience: epochs without improvement before the rate is lowered, at least 1.
        factor: in (0, 1), by which it is multiplied.
    """

    def __init__(self, metric: str, *, patience: int, factor: float) -> None:
        self.metric, self.patience, self.factor = metric, patience, factor
        self._sign = 1.0 if metric.endswith("accuracy") else -1.0
        self._best = -math.inf
        self._waited = 0

    def update(self, value: float) -> bool:
        """Record the metric of an epoch; return whether to lower the learning rate now."""
        if self._sign * value > self._best:
            self._best, self._waited = self._sign * value, 0
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        self._waited = 0
        return True

    def lower(self, schedule: Schedule) -> None:
        """Multiply the learning rate of a schedule `plateau` by the factor."""
        if schedule.scale is not None:
            schedule.scale.assign(schedule.scale * self.factor)

    def state(self) -> dict[str, float | int | None]:
        """Return the state for restore(), as values for JSON, without the schedule's scale, which the optimizer has."""
        return {"best": self._best if math.isfinite(self._best) else None, "waited": self._waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state()."""
        self._best = -math.inf if state["best"] is None else float(state["best"])
        self._waited = int(state["waited"])
