"""The threshold of abstention: its guarantee holds, and its measurements are reported in plain numbers."""

import json

import numpy as np
import pytest

from darkroom.evaluation.metrics import abstention
from darkroom.evaluation.metrics.abstention import ALWAYS, find_threshold, least_images, measure
from darkroom.evaluation.metrics.classification import accuracy_interval

Draw = tuple[np.ndarray, np.ndarray]


def drawn(n_images: int, rng: np.random.Generator, *, boast: float = 0.0) -> Draw:
    """Probabilities and whether these answers are right; boast: by how much too sure they are."""
    probability = 1 - 0.7 * rng.beta(0.35, 3, n_images)
    return probability, rng.random(n_images) < probability - boast


@pytest.mark.parametrize("boast", [0.0, 0.01])
@pytest.mark.parametrize("n_images", [150, 600, 2500])
def test_the_stated_rate_holds_in_95_of_100_draws(n_images: int, boast: float) -> None:
    rng = np.random.default_rng(1)
    probability, correct = drawn(200_000, rng, boast=boast)
    held, shares = [], []
    for _ in range(100):
        guide = drawn(n_images, rng, boast=boast)
        found = find_threshold(*drawn(n_images, rng, boast=boast), guide=guide, error_rate=0.03, confidence=0.95)
        answered = probability >= found.abstain_below
        held.append((~correct[answered]).sum() <= 0.03 * answered.sum())
        shares.append(answered.mean())
    assert sum(held) >= 95
    if n_images == 2500:
        order = np.argsort(-probability)
        possible = (np.cumsum(~correct[order]) <= 0.03 * np.arange(1, len(order) + 1)).nonzero()[0].max() / len(order)
        assert np.mean(shares) > 0.8 * possible, "no promise is kept by answering nothing"


def test_few_images_or_too_many_errors_never_answer() -> None:
    sure, right = np.linspace(0.5, 1, 1000), np.ones(1000, bool)
    options = {"error_rate": 0.01, "confidence": 0.95}
    n_least = least_images(**options)
    assert n_least == 299
    all_right = find_threshold(sure[:n_least], right[:n_least], guide=(sure, right), **options)
    assert all_right == (0.0, n_least, n_least, 0), "all are answered"
    few = find_threshold(sure[: n_least - 1], right[: n_least - 1], guide=(sure, right), **options)
    assert few == (ALWAYS, n_least - 1, n_least - 1, 0)
    wrong = find_threshold(sure, np.arange(1000) % 20 > 0, guide=(sure, right), **options)
    assert (wrong.abstain_below, wrong.n_answered, wrong.n_wrong) == (ALWAYS, 1000, 50)


def test_a_threshold_stands_above_the_errors() -> None:
    sure = np.linspace(0, 1, 2001)
    right = (sure > 0.4) | (np.arange(2001) % 2 > 0)
    found = find_threshold(sure, right, guide=(sure, right), error_rate=0.02, confidence=0.9)
    assert 0.35 < found.abstain_below < 0.4
    assert found.n_answered == (sure >= found.abstain_below).sum()
    assert 0 < found.n_wrong / found.n_answered < 0.02


def test_shares_have_intervals_and_stand_per_class() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    abstained = np.array([False, False, True, False])
    found = measure(probabilities, np.array([0, 0, 1, 1]), abstained, classes=["a", "b", "c"])
    assert (found["share_answered"], found["error_answered"]) == (0.75, pytest.approx(1 / 3))
    assert found["share_answered_ci95"] == list(accuracy_interval(~abstained))
    assert found["error_answered_ci95"] == list(accuracy_interval(np.array([False, True, False])))
    of = found["answered_per_class"]
    assert [of[name]["share_answered"] for name in "abc"] == [1.0, 0.5, None]
    assert [of[name]["error_answered"] for name in "abc"] == [0.5, 0.0, None]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    nothing = measure(probabilities, np.array([0, 0, 1, 1]), ~np.zeros(4, bool), classes=["a", "b"])
    assert (nothing["share_answered"], nothing["error_answered"], nothing["error_answered_ci95"]) == (0, None, None)


def test_more_levels_than_images_are_no_harm() -> None:
    one = np.array([0.5]), np.array([True])
    found = find_threshold(*one, guide=one, error_rate=0.5, confidence=0.4)
    assert (found.abstain_below, abstention.least_images(0.5, 0.4)) == (0.0, 1)
