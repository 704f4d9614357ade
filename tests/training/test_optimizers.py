"""Optimizers on a small network: what all of them share, and what is Muon's own."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from darkroom.errors import ParamsError
from darkroom.training import optimizers, schedules

pytestmark = pytest.mark.heavy

RNG = np.random.default_rng(0)
LABELS = np.arange(32) % 2
PICTURES = (RNG.normal(size=(32, 8, 8, 1)) + 0.8 * LABELS[:, None, None, None]).astype(np.float32)
ONE_HOT = np.eye(2, dtype=np.float32)[LABELS]


def network(policy: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(3)
    pictures = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, dtype=policy, name="conv")(pictures)
    x = layers.BatchNormalization(dtype=policy)(x)
    x = layers.DepthwiseConv2D(3, dtype=policy, name="depthwise")(x)
    x = layers.Dense(6, activation="relu", dtype=policy, name="hidden")(layers.Flatten()(x))
    return keras.Model(pictures, layers.Dense(2, dtype="float32", name="logits")(x))


def compiled(policy: str = "float32", **arguments: Any) -> keras.Model:
    model = network(policy)
    optimizer = optimizers.make_optimizer(**{"name": "sgd", "learning_rate": 0.05, **arguments})
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    optimizer.build(model.trainable_variables)
    return model


def fit(model: keras.Model, epochs: int = 2) -> list[float]:
    fitted = model.fit(PICTURES, ONE_HOT, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return [float(loss) for loss in fitted.history["loss"]]


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_learns_with_all_that_is_shared(name: str) -> None:
    schedule = schedules.Schedule("one_cycle", peak=0.05, total_steps=16, steps_per_epoch=4, warmup=0.2)
    losses = fit(compiled(name=name, learning_rate=schedule, weight_decay=0.1, clip_norm=1.0, averaging=0.9), epochs=4)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_without_gradients_weight_decay_shrinks_kernels_alone(name: str) -> None:
    model = compiled(name=name, learning_rate=0.1, weight_decay=0.5)
    before = [np.array(variable) for variable in model.trainable_variables]
    for _ in range(2):
        model.optimizer.apply([np.zeros_like(value) for value in before], model.trainable_variables)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        factor = 0.95**2 if variable.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(np.array(variable), factor * value, rtol=1e-5, err_msg=variable.path)


def test_the_norm_of_all_gradients_together_is_clipped() -> None:
    model = compiled(momentum=0.0, learning_rate=1.0, clip_norm=0.5)
    before = [np.array(variable) for variable in model.trainable_variables]
    model.optimizer.apply([np.full_like(value, 7.0) for value in before], model.trainable_variables)
    moved = [np.array(variable) - value for variable, value in zip(model.trainable_variables, before, strict=True)]
    assert np.sqrt(sum(np.square(step).sum() for step in moved)) == pytest.approx(0.5, rel=1e-4)


def test_averages_follow_the_weights_early_and_leave_them_alone() -> None:
    """Keras' averages would still be the initial weights here, and would replace the weights after fit()."""
    model = compiled(averaging=0.99)
    initial, kernels = model.get_weights(), []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: kernels.append(model.get_weights()[0]))
    model.fit(PICTURES, ONE_HOT, batch_size=4, epochs=5, shuffle=False, verbose=0, callbacks=[keep])
    np.testing.assert_array_equal(model.get_weights()[0], kernels[-1])
    expected = kernels[0]
    for step, kernel in enumerate(kernels[1:], 1):
        momentum = min(0.99, step / (step + 10))
        expected = momentum * expected + (1 - momentum) * kernel
    averaged = optimizers.averaged_weights(model.optimizer, model.weights)
    np.testing.assert_allclose(averaged[0], expected, rtol=1e-4, atol=1e-6)
    assert np.abs(averaged[0] - kernels[-1]).max() < 0.3 * np.abs(initial[0] - kernels[-1]).max()


def test_averages_come_in_the_order_requested() -> None:
    model = compiled(averaging=0.9)
    np.testing.assert_array_equal(
        optimizers.averaged_weights(model.optimizer, model.weights)[0], model.get_weights()[0], "before the first step"
    )
    fit(model)
    backwards = optimizers.averaged_weights(model.optimizer, model.weights[::-1])[::-1]
    for variable, averaged in zip(model.weights, backwards, strict=True):
        assert np.array_equal(averaged, np.array(variable)) == (not variable.trainable), variable.path
    plain = compiled()
    fit(plain)
    np.testing.assert_array_equal(
        optimizers.averaged_weights(plain.optimizer, plain.weights)[0], plain.get_weights()[0]
    )


def test_the_variables_of_an_optimizer_are_all_of_its_state() -> None:
    def make() -> keras.Model:
        schedule = schedules.Schedule("plateau", peak=0.05, total_steps=32, steps_per_epoch=4, warmup=0.5)
        return compiled(name="adam", learning_rate=schedule, averaging=0.9, loss_scaling=True)

    whole, second = make(), make()
    fit(whole)
    whole.optimizer.inner_optimizer._learning_rate.scale.assign(0.3)
    state = [np.array(variable) for variable in (*whole.variables, *whole.optimizer.variables)]
    fit(whole)
    for variable, value in zip((*second.variables, *second.optimizer.variables), state, strict=True):
        variable.assign(value)
    fit(second)
    assert float(second.optimizer.learning_rate) == float(whole.optimizer.learning_rate)
    pairs = (optimizers.averaged_weights(model.optimizer, model.weights) for model in (whole, second))
    for ours, theirs in zip(*pairs, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_lowered_plateau_is_seen_by_a_compiled_step() -> None:
    schedule = schedules.Schedule("plateau", peak=0.1, total_steps=8, steps_per_epoch=4, warmup=0.0)
    model = compiled(learning_rate=schedule, momentum=0.0)
    fit(model, epochs=1)
    before = model.get_weights()[0]
    assert schedule.scale is not None
    schedule.scale.assign(0.0)
    fit(model, epochs=1)
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_float16_scales_its_loss_and_skips_what_overflows() -> None:
    model = compiled("mixed_float16", name="sgd", weight_decay=0.01, averaging=0.5, loss_scaling=True)
    losses = fit(model, epochs=4)
    assert np.all(np.isfinite(losses))
    assert losses[-1] < 0.6 * losses[0]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    before = [np.array(variable) for variable in model.trainable_variables]
    gradients = [np.zeros_like(value) for value in before]
    gradients[0][...] = np.inf
    scale = float(model.optimizer.dynamic_scale)
    model.optimizer.apply(gradients, model.trainable_variables)
    np.testing.assert_array_equal(np.array(model.trainable_variables[0]), before[0])
    assert float(model.optimizer.dynamic_scale) == scale / 2


def test_muon_turns_kernels_and_leaves_the_rest_to_adam() -> None:
    model = compiled(name="muon")
    by_adam = {variable.path for variable in model.trainable_variables if model.optimizer._should_use_adamw(variable)}
    kernels = {variable.path for variable in model.trainable_variables if variable.path.endswith("kernel")}
    assert kernels - by_adam == {"conv/kernel", "hidden/kernel"}


def test_muon_steps_on_filters_as_on_their_matrix() -> None:
    """All singular values of a step are about the learning rate."""
    model = compiled(name="muon", learning_rate=0.1)
    filters, dense = (model.get_layer(name).kernel for name in ("conv", "hidden"))
    before = {id(variable): np.array(variable) for variable in (filters, dense)}
    gradients = [RNG.normal(size=variable.shape).astype(np.float32) for variable in model.trainable_variables]
    model.optimizer.apply(gradients, model.trainable_variables)
    for variable in (filters, dense):
        step = (before[id(variable)] - np.array(variable)).reshape(-1, variable.shape[-1])
        values = np.linalg.svd(step, compute_uv=False) / 0.1
        assert 0.6 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("shape", [(216, 64), (64, 216), (64, 64), (3, 256)])
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-6, 0.0])
def test_muons_iteration_is_that_of_keras(shape: tuple[int, int], smallest: float) -> None:
    """Singular values from 1 down to `smallest`: what Keras computes on the matrix is computed on its Gram matrix."""
    optimizer = optimizers.Muon()
    rank = min(shape)
    left, right = (np.linalg.qr(RNG.normal(size=(side, rank)))[0] for side in shape)
    matrix = ((left * np.linspace(1, smallest, rank)) @ right.T).astype(np.float32)
    for steps in (1, 3, 5):
        ours, theirs = (
            keras.ops.convert_to_numpy(iteration(keras.ops.convert_to_tensor(matrix), steps))
            for iteration in (
                optimizer.zeropower_via_newtonschulz5,
                super(optimizers.Muon, optimizer).zeropower_via_newtonschulz5,
            )
        )
        assert ours.shape == shape
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_muon_does_not_move_weights_without_gradient() -> None:
    zeros = keras.ops.zeros((12, 4))
    np.testing.assert_array_equal(optimizers.Muon().zeropower_via_newtonschulz5(zeros, 5), zeros)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ParamsError, match="optimizer is 'lion', expected one of sgd, adam, adamw, rmsprop, muon"):
        optimizers.make_optimizer("lion", learning_rate=0.1)


def test_an_optimizer_is_made_again_from_its_config() -> None:
    for name in optimizers.OPTIMIZERS:
        optimizer = optimizers.make_optimizer(name, learning_rate=0.1, weight_decay=0.1, clip_norm=1.0, averaging=0.9)
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()
