"""The learning-rate test: a network that learns, losses that are given, and what is left behind."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from darkroom.errors import TrainingError
from darkroom.lr_find import range_test
from darkroom.training import optimizers

pytestmark = pytest.mark.heavy

RATES = np.geomspace(1e-5, 10, 60)


class Lights:
    """Batches of dark and light images; the two classes are told apart by one weight."""

    def __init__(self, epoch: int) -> None:
        self._rng = np.random.default_rng(epoch)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        labels = self._rng.integers(0, 2, 32)
        pictures = self._rng.normal(size=(32, 4, 4, 1)) + 0.7 * labels[:, None, None, None]
        return pictures.astype(np.float32), np.eye(2, dtype=np.float32)[labels], np.ones(32, np.float32)


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [layers.Input((4, 4, 1)), layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.1), layers.Dense(2)]
    )


def falling_at(rate: float, *, greatest: float, noise: float = 0.0) -> np.ndarray:
    """Losses that fall from 2.3 to 0.3 around a rate, by half at it, and rise beyond the greatest."""
    fall = 2.3 - 2 / (1 + (rate / RATES) ** 3)
    return fall + np.maximum(0, np.log(RATES / greatest)) + np.random.default_rng(0).normal(0, noise, len(RATES))


def test_the_rates_rise_and_the_network_is_left_as_it_was() -> None:
    model = network()
    before = [np.array(variable) for variable in model.variables]
    seen: list[tuple[int, int]] = []
    finding = range_test.find(
        model,
        Lights,
        optimizer=lambda schedule: optimizers.make_optimizer("sgd", learning_rate=schedule),
        start=1e-4,
        end=1e3,
        n_steps=40,
        on_step=lambda step, steps: seen.append((step, steps)),
    )
    assert seen[0] == (1, 40)
    assert len(seen) == len(finding.losses) == len(finding.smoothed) == len(finding.learning_rates)
    assert finding.learning_rates[0] == pytest.approx(1e-4)
    assert np.allclose(np.diff(np.log(finding.learning_rates)), np.log(1e7) / 39)
    assert 1e-4 < finding.suggestion <= finding.greatest
    assert finding.diverged, "at rates up to 1000 the loss explodes"
    for variable, value in zip(model.variables, before, strict=False):
        np.testing.assert_array_equal(np.array(variable), value, variable.path)


def test_the_suggestion_is_where_the_loss_falls_most_steeply() -> None:
    found = range_test.interpret(RATES, falling_at(0.01, greatest=0.5), diverged=False)
    assert found.suggestion == pytest.approx(0.01, rel=0.3)
    assert 0.1 < found.greatest <= 0.5, "smoothing brings the rise behind it forward"
    assert found.cautious == found.suggestion, "a tenth of the greatest is more"
    near = range_test.interpret(RATES, falling_at(0.1, greatest=0.5), diverged=False)
    assert near.cautious == pytest.approx(near.greatest / 10, rel=0.1)
    assert near.cautious < near.suggestion
    assert not found.diverged


def test_noise_of_single_batches_moves_the_suggestion_little() -> None:
    quiet, noisy = (
        range_test.interpret(RATES, falling_at(0.01, greatest=0.5, noise=n), diverged=False) for n in (0, 0.1)
    )
    assert noisy.suggestion == pytest.approx(quiet.suggestion, rel=0.5)


def test_a_last_loss_that_is_not_finite_is_left_out() -> None:
    losses = falling_at(0.01, greatest=0.5)
    losses[-1] = np.nan
    found = range_test.interpret(RATES, losses, diverged=True)
    assert len(found.losses) == len(found.learning_rates) == len(RATES) - 1
    assert found.suggestion == pytest.approx(0.01, rel=0.3)


def test_smoothing_moves_nothing_sideways() -> None:
    step = np.repeat([2.0, 1.0], 30)
    smoothed = range_test.smooth(step)
    assert np.all(np.diff(smoothed) <= 1e-12)
    assert smoothed[29] + smoothed[30] == pytest.approx(3.0)
    np.testing.assert_allclose(range_test.smooth(np.ones(7)), 1.0)


def test_a_loss_that_falls_nowhere_is_an_error() -> None:
    with pytest.raises(TrainingError, match="the loss fell at none of the 60 learning rates tried; check the labels"):
        range_test.interpret(RATES, 2.3 + np.arange(60) / 10, diverged=False)
    with pytest.raises(TrainingError, match="fell at none of the 0 learning rates"):
        range_test.interpret(RATES, np.full(60, np.nan), diverged=True)


def test_steps_and_rates_out_of_range_are_refused() -> None:
    for arguments in ({"n_steps": 9}, {"start": 0.0}, {"start": 1.0, "end": 0.1}):
        with pytest.raises(TrainingError, match="expected at least 10 steps, and a range that rises from above 0"):
            range_test.find(network(), Lights, optimizer=keras.optimizers.SGD, **arguments)
