"""Optimizers by name, with decoupled weight decay, clipping, averaged weights and loss scaling.

They are Keras' own with four changes (Rules). All state is in `optimizer.variables`, so a checkpoint of these restores
it exactly.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from darkroom.errors import ParamsError

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "muon")
OUTPUT_LAYER = "logits"  # its name in networks.build
ADAM_SHARE = 0.02  # of Muon's learning rate; Jordan pairs 0.02 with 0.0003
GRAM_STEPS = 3  # of Newton-Schulz on one Gram matrix; with more of them, rounding to TensorFloat-32 adds up


class Rules:
    """A mixin that changes Keras' optimizers in four places; it must precede the Keras optimizer in a class's bases."""

    def build(self: Any, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)  # type: ignore[misc]  # the Keras optimizer's
        # A schedule with a variable: if untracked, a compiled step of JAX would use its value as a constant.
        scale = getattr(self._learning_rate, "scale", None)
        if scale is not None:
            self._track_variable(scale)

    def add_variable_from_reference(
        self: Any, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> Any:
        if name != "average":
            return super().add_variable_from_reference(reference_variable, name=name, initializer=initializer)  # type: ignore[misc]
        # Each device of TensorFlow assigns its own average; Keras does not define which value counts.
        return self.add_variable(
            shape=reference_variable.shape,
            initializer=initializer,
            dtype=reference_variable.dtype,
            aggregation="only_first_replica",
            layout=getattr(reference_variable, "_layout", None),
            name=f"{reference_variable.path.replace('/', '_')}_average",
        )

    def _use_weight_decay(self, variable: Any) -> bool:
        """Return whether weight decay applies: not to biases, and scales and offsets of normalisation."""
        return len(variable.shape) > 1

    def _update_model_variables_moving_average(self: Any, trainable_variables: Sequence[Any]) -> None:
        """Average the weights over the last steps: at most 1 / (1 - averaging) steps, and a tenth of all so far.

        Keras starts from the weights after step 1 with full momentum, which would still count for 37 % after 100 steps
        at 0.99.
        """
        steps = ops.cast(self._iterations, "float32")
        momentum = ops.minimum(self.ema_momentum, steps / (steps + 10.0))
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            kept = ops.cast(momentum, variable.dtype)
            average.assign(kept * average + (1 - kept) * variable)

    def finalize_variable_values(self, _variables: Sequence[Any]) -> None:
        """Do nothing: Keras would replace the weights by their average at the end of every fit()."""

    def _clip_gradients(self: Any, gradients: list[Any]) -> list[Any]:
        """Clip here, or with several devices after summing; Keras would clip each device's share."""
        return gradients if _is_distributed(self) else super()._clip_gradients(gradients)  # type: ignore[misc]

    def _all_reduce_sum_gradients(self: Any, grads_and_vars: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        pairs = super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]
        if not _is_distributed(self):
            return list(pairs)
        gradients, variables = zip(*pairs, strict=True)
        return list(zip(super()._clip_gradients(list(gradients)), variables, strict=True))  # type: ignore[misc]


def _is_distributed(optimizer: Any) -> bool:
    """Return whether TensorFlow runs the optimizer on several devices (JAX sums gradients before it)."""
    strategy = getattr(optimizer, "_distribution_strategy", None)
    return strategy is not None and strategy.num_replicas_in_sync > 1


@keras.saving.register_keras_serializable(package="darkroom")
class SGD(Rules, keras.optimizers.SGD):
    """Keras' SGD under Rules."""


@keras.saving.register_keras_serializable(package="darkroom")
class Adam(Rules, keras.optimizers.Adam):
    """Keras' Adam under Rules."""


@keras.saving.register_keras_serializable(package="darkroom")
class RMSprop(Rules, keras.optimizers.RMSprop):
    """Keras' RMSprop under Rules."""


@keras.saving.register_keras_serializable(package="darkroom")
class Muon(Rules, keras.optimizers.Muon):
    """Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) for filters of convolutions and dense kernels.

    Keras' own supports only matrices. Here a kernel (h, w, C_in, C_out) is treated as the matrix (h * w * C_in, C_out).
    The step is the momentum with all singular values brought near the learning rate. Keras' factor for the size of a
    matrix (Liu et al. 2025) is left out, because with filters of constant length it made large layers rotate twice as
    far as small ones. Biases, BatchNorm, depthwise filters, embeddings and the output layer use Adam, at ADAM_SHARE of
    the learning rate. Weight decay is the same for all kernels.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        *rows, columns = variable.shape
        if not rows or min(math.prod(rows), columns) == 1:
            return True
        path = getattr(variable, "path", variable.name).lower()
        return any(word in path for word in (OUTPUT_LAYER, "depthwise", "embedding"))

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        gradient, lr = ops.cast(gradient, variable.dtype), ops.cast(lr, variable.dtype)
        moved = m * self.momentum + gradient
        self.assign(m, moved)
        moved = gradient + self.momentum * moved if self.nesterov else moved
        matrix = ops.reshape(moved, (-1, variable.shape[-1]))
        update = self.zeropower_via_newtonschulz5(matrix, self.ns_steps)
        self.assign_sub(variable, lr * ops.reshape(update, variable.shape))

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        """Return the matrix x with its singular values brought near 1, by the Newton-Schulz iteration of Keras.

        The polynomials are multiplied on the Gram matrix of the shorter side, and applied to x every GRAM_STEPS steps
        (Zhang, Amsel, Chen and Dao 2026, "Gram Newton-Schulz", https://dao-lab.ai/blog/2026/gram-newton-schulz). With
        3x3 filters, of as many inputs as outputs, this takes 50 products of that size instead of 95.
        """
        is_tall = x.shape[0] > x.shape[1]
        x = ops.transpose(x) if is_tall else x
        x = x / (ops.norm(x) + 1e-7)
        identity = ops.eye(x.shape[0], dtype=x.dtype)
        for start in range(0, steps, GRAM_STEPS):
            gram, product = x @ ops.transpose(x), None
            for step in range(start, end := min(start + GRAM_STEPS, steps)):
                factor = self.muon_a * identity + self.muon_b * gram + self.muon_c * (gram @ gram)
                product = factor if product is None else factor @ product
                gram = factor @ gram @ factor if step + 1 < end else None
            x = product @ x
        return ops.transpose(x) if is_tall else x

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        # Skips the rule of Keras' Muon, which depends on the kind of step and fails on several devices.
        super(keras.optimizers.Muon, self)._apply_weight_decay(variables)


def make_optimizer(
    name: str,
    *,
    learning_rate: Any,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    averaging: float = 0.0,
    loss_scaling: bool = False,
) -> keras.optimizers.Optimizer:
    """Return the optimizer, not yet built.

    Args:
        name: one of OPTIMIZERS.
        learning_rate: a float or a schedule.
        momentum: in [0, 1), of sgd (Nesterov) and muon; the others have their own.
        weight_decay: decoupled, multiplied by the learning rate; not applied to biases and BatchNorm.
        clip_norm: maximum global norm of the gradients; None: no limit.
        averaging: in [0, 1), the momentum of the average; 0: no average.
        loss_scaling: for float16: the loss is scaled so that small gradients do not vanish, and steps with infinite
            gradients are skipped.

    Raises:
        ParamsError: unknown name.
    """
    shared: dict[str, Any] = {
        "weight_decay": weight_decay or None,
        "global_clipnorm": clip_norm,
        "use_ema": averaging > 0,
        "ema_momentum": averaging,
    }
    match name:
        case "adam" | "adamw":  # Keras decouples the decay in both
            optimizer = Adam(learning_rate, **shared)
        case "sgd":
            optimizer = SGD(learning_rate, momentum=momentum, nesterov=momentum > 0, **shared)
        case "rmsprop":
            optimizer = RMSprop(learning_rate, **shared)
        case "muon":
            optimizer = Muon(learning_rate, momentum=momentum, adam_lr_ratio=ADAM_SHARE, **shared)
        case _:
            raise ParamsError(f"optimizer is {name!r}, expected one of {', '.join(OPTIMIZERS)}")
    return keras.optimizers.LossScaleOptimizer(optimizer) if loss_scaling else optimizer


def averaged_weights(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> list[np.ndarray]:
    """Return the values of `variables` for validation and deployment: averages where they exist.

    Untrained variables keep their values, such as BatchNorm's statistics, which statistics.Reestimation then has to
    estimate for these weights. Before the first step, and without averaging, all values are the present ones.

    Args:
        optimizer: returned by make_optimizer, built.
        variables: of the network, in any order, for example network.weights.
    """
    inner = _inner(optimizer)
    averages: dict[int, Any] = {}
    if inner.use_ema and int(ops.convert_to_numpy(inner.iterations)) > 0:
        averages = {
            id(variable): average
            for variable, average in zip(inner._trainable_variables, inner._model_variables_moving_average, strict=True)
        }
    return [np.array(ops.convert_to_numpy(averages.get(id(variable), variable))) for variable in variables]


def is_averaging(optimizer: keras.optimizers.Optimizer) -> bool:
    """Return whether the optimizer averages the weights that it trains."""
    return bool(_inner(optimizer).use_ema)


def _inner(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the optimizer without loss scaling."""
    return getattr(optimizer, "inner_optimizer", optimizer)
