"""Known temperatures are found, change no answer, and stay 1 if nothing can be learned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.errors import DataError
from darkroom.evaluation.metrics.classification import expected_calibration_error
from darkroom.evaluation.metrics.temperature import fit_temperature, scaled


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def drawn(temperature: float, *, n: int = 20_000, n_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a network that is wrong about its confidence by this factor, and labels drawn from the right ones."""
    rng = np.random.default_rng(7)
    right = rng.normal(size=(n, n_classes)) * 2
    labels = (softmax(right).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return softmax(right * temperature), labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_spoiled_confidences_is_found_again(temperature: float) -> None:
    probabilities, labels = drawn(temperature)
    found = fit_temperature(probabilities, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    better = scaled(probabilities, found)
    assert expected_calibration_error(better, labels) < 0.015
    assert expected_calibration_error(better, labels) <= expected_calibration_error(probabilities, labels) + 1e-3


def test_few_images_move_the_temperature_less_far_from_1() -> None:
    probabilities, labels = drawn(2.0, n=20)
    found = [fit_temperature(np.tile(probabilities, (n, 1)), np.tile(labels, n)) for n in (1, 10, 1000)]
    assert 1 < found[0] < found[1] < found[2]


def test_the_temperature_of_few_images_adds_little_loss() -> None:
    probabilities, labels = drawn(1.0)
    rows = np.arange(len(labels))

    def loss(temperature: float) -> float:
        return -float(np.log(scaled(probabilities, temperature)[rows, labels]).mean())

    few = np.split(rows[:1800], 100)
    added = [loss(fit_temperature(probabilities[part], labels[part])) - loss(1.0) for part in few]
    assert np.mean(added) < 0.035, "0.046 without a prior"


@given(st.floats(0.05, 20), st.integers(2, 5), st.integers(0, 1000))
def test_no_answer_changes_and_rows_stay_probabilities(temperature: float, n_classes: int, seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(n_classes), size=8)
    changed = scaled(probabilities, temperature)
    assert (changed.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert changed.sum(axis=1) == pytest.approx(1)
    if temperature >= 0.5:  # below, the least probabilities become too small to come back
        assert scaled(changed, 1 / temperature) == pytest.approx(probabilities, abs=1e-6)


def test_probabilities_of_zero_and_one_stay_finite() -> None:
    sure = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert np.isfinite(scaled(sure, 0.05)).all()
    assert 1 < fit_temperature(np.repeat(sure, 5, axis=0), np.array([0, 0, 0, 0, 1] * 2)) <= 20


@pytest.mark.parametrize(("n", "low", "high"), [(2, 0.7, 0.9), (100, 0.1, 0.25)])
def test_right_answers_alone_raise_the_confidence_step_by_step(n: int, low: float, high: float) -> None:
    probabilities = np.tile([[0.7, 0.3], [0.3, 0.7]], (n // 2, 1))
    assert low < fit_temperature(probabilities, np.tile([0, 1], n // 2)) < high


def test_one_wrong_answer_of_many_moves_the_temperature_little() -> None:
    probabilities, labels = np.tile([[0.8, 0.2], [0.2, 0.8]], (30, 1)), np.tile([0, 1], 30)
    found = fit_temperature(probabilities, labels)
    labels[0] = 1
    assert found < fit_temperature(probabilities, labels) < 2 * found


def test_what_is_no_probability_or_no_temperature_is_refused() -> None:
    with pytest.raises(DataError, match="sums to 2"):
        fit_temperature(np.ones((1, 2)), np.array([0]))
    with pytest.raises(DataError, match=r"the temperature is 0.0, expected a number above 0"):
        scaled(np.array([[0.5, 0.5]]), 0.0)
