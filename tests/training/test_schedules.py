"""What the learning rate is in each step, and when a plateau lowers it."""

import json
from typing import Any

import keras
import numpy as np
import pytest

from darkroom.errors import ParamsError
from darkroom.lr_find.range_test import ExponentialRise
from darkroom.training.schedules import Plateau, Schedule

pytestmark = pytest.mark.heavy


def rates(name: str, *, peak: float = 0.4, warmup: float = 0.2, **arguments: Any) -> np.ndarray:
    schedule = Schedule(name, peak=peak, total_steps=100, steps_per_epoch=10, warmup=warmup, **arguments)
    return np.asarray(keras.ops.convert_to_numpy(schedule(np.arange(100))))


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_a_cycle_rises_to_its_peak_and_falls_to_a_thousandth(name: str) -> None:
    values = rates(name)
    assert int(np.argmax(values)) in (19, 20)
    assert values[0] == pytest.approx(0.4 / 20)
    assert np.all(np.diff(values[20:]) < 0)
    end = Schedule(name, peak=0.4, total_steps=100, steps_per_epoch=10, warmup=0.2)(100)
    assert float(end) == pytest.approx(0.4 / 1000, rel=1e-3)


def test_one_cycle_falls_on_a_line_and_cosine_on_half_a_wave() -> None:
    line, wave = rates("one_cycle", warmup=0.0), rates("cosine", warmup=0.0)
    assert line[50] == pytest.approx(0.2, rel=0.01)
    assert line[25] == pytest.approx(0.3, rel=0.01)
    assert wave[25] == pytest.approx(0.4 * (1 + np.sqrt(0.5)) / 2, rel=0.01)


def test_constant_and_plateau_stay_at_the_peak_after_the_rise() -> None:
    for name in ("constant", "plateau"):
        values = rates(name, every=3, factor=0.1)  # of other schedules
        assert values[0] == pytest.approx(0.02)
        assert set(values[20:]) == {np.float32(0.4)}


def test_step_falls_exactly_at_the_ends_of_epochs() -> None:
    values = rates("step", warmup=0.0, every=3, factor=0.1)
    assert np.flatnonzero(np.diff(values)).tolist() == [29, 59, 89], "the last step before a fall"
    np.testing.assert_allclose(values[[0, 30, 60, 90]], [0.4, 0.04, 0.004, 0.0004], rtol=1e-5)


def test_a_schedule_is_made_again_from_its_config() -> None:
    schedule = Schedule("step", peak=0.4, total_steps=90, steps_per_epoch=10, warmup=0.1, every=2, factor=0.5)
    config = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    again = keras.optimizers.schedules.deserialize(config)
    assert again.get_config() == schedule.get_config()
    assert float(again(25)) == float(schedule(25))


def test_the_range_test_rises_by_equal_factors() -> None:
    rise = ExponentialRise(1e-6, 10.0, n_steps=8)
    ours = [float(rise(step)) for step in range(8)]
    np.testing.assert_allclose(ours, rise.rates(), rtol=1e-4)
    np.testing.assert_allclose(rise.rates()[[0, -1]], [1e-6, 10.0])


def test_a_plateau_is_lowered_after_patience() -> None:
    plateau = Plateau("val_loss", patience=2, factor=0.5)
    assert [plateau.update(loss) for loss in (1.0, 0.9, 0.9, 0.95, 0.91, 0.92, 0.8)] == [
        False, False, False, True, False, True, False,
    ]  # fmt: skip
    accuracy = Plateau("val_accuracy", patience=1, factor=0.5)
    assert [accuracy.update(value) for value in (0.5, 0.6, 0.6)] == [False, False, True]


def test_a_plateau_resumes_from_its_state() -> None:
    first, second = (Plateau("val_loss", patience=2, factor=0.5) for _ in range(2))
    second.restore(json.loads(json.dumps(first.state())))  # before any epoch, too
    for loss in (1.0, 2.0):
        first.update(loss)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.update(2.0)


def test_what_a_plateau_lowers_is_the_learning_rate() -> None:
    schedule = Schedule("plateau", peak=0.4, total_steps=10, steps_per_epoch=1, warmup=0.0)
    Plateau("val_loss", patience=1, factor=0.25).lower(schedule)
    assert float(schedule(5)) == pytest.approx(0.1)


def test_a_wrong_name_or_a_step_without_its_numbers_is_refused() -> None:
    with pytest.raises(ParamsError, match="schedule is 'linear', expected one of one_cycle, cosine"):
        Schedule("linear", peak=1, total_steps=1, steps_per_epoch=1, warmup=0)
    with pytest.raises(ParamsError, match="the schedule step has every 2 and factor None, expected numbers"):
        Schedule("step", peak=1, total_steps=1, steps_per_epoch=1, warmup=0, every=2)
