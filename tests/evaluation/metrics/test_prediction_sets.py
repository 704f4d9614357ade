"""Prediction sets: their stated coverage holds, and they agree with the formula of the paper."""

import json
import math

import numpy as np
import pytest

from darkroom.deployable.scores import set_scores
from darkroom.evaluation.metrics.classification import accuracy_interval
from darkroom.evaluation.metrics.prediction_sets import least_calibration_images, measure, score_threshold

CLASSES = 6


def drawn(n_images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is too sure, and labels drawn from the true ones."""
    true = rng.dirichlet(np.full(CLASSES, 0.4), n_images)
    labels = (true.cumsum(axis=1) < rng.random((n_images, 1))).sum(axis=1).clip(max=CLASSES - 1)
    said = true**1.5 + 1e-6
    return said / said.sum(axis=1, keepdims=True), labels


def plain_set(row: np.ndarray, *, threshold: float, penalty: float, free: int) -> list[int]:
    """The set of Angelopoulos et al. 2020, section 2, at u = 0: its formula, class by class."""
    listed = []
    for label, own in enumerate(row):
        mass = sum(other for other in row if other > own)
        rank = sum(1 for other in row if other >= own)
        if mass + penalty * max(rank - free, 0) <= threshold:
            listed.append(label)
    return listed


@pytest.mark.parametrize("n_images", [30, 200, 1001])
def test_the_stated_coverage_holds_on_average_over_100_draws(n_images: int) -> None:
    rng = np.random.default_rng(1)
    probabilities, labels = drawn(20_000, rng)
    scores = set_scores(probabilities, penalty=0.01, free=1)[np.arange(len(labels)), labels]
    found = []
    for _ in range(100):
        some, own = drawn(n_images, rng)
        calibration = set_scores(some, penalty=0.01, free=1)[np.arange(n_images), own]
        found.append(np.mean(scores <= score_threshold(calibration, 0.9)))
    error = 3 * np.std(found) / 10
    assert 0.9 - error < np.mean(found) < 0.9 + 1 / (n_images + 1) + error, "no more is listed than needed"


@pytest.mark.parametrize("free", [1, 2, 4])
@pytest.mark.parametrize("penalty", [0.0, 0.01, 0.3])
def test_sets_are_those_of_a_plain_reading_of_the_paper(penalty: float, free: int) -> None:
    rng = np.random.default_rng(free)
    for concentration in (0.2, 1.0, 5.0):
        probabilities = rng.dirichlet(np.full(CLASSES, concentration), 60)
        scores = set_scores(probabilities, penalty=penalty, free=free)
        for threshold in (0.0, 0.2, 0.6, 0.97, 1.0, 1.4, 2.6):
            for row, own in zip(probabilities, scores, strict=True):
                expected = plain_set(row, threshold=threshold, penalty=penalty, free=free)
                listed = np.flatnonzero(own <= threshold).tolist()
                assert listed == expected or _is_rounding(own, listed, expected, threshold)
                assert int(row.argmax()) in listed


def _is_rounding(scores: np.ndarray, listed: list[int], expected: list[int], threshold: float) -> bool:
    """Whether what differs has a score that equals the threshold but for the order of additions."""
    return bool(np.all(np.abs(scores[list({*listed} ^ {*expected})] - threshold) < 1e-12))


def test_of_equal_probabilities_the_first_is_listed_first() -> None:
    scores = set_scores(np.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.0, 0.5, 0.0]]), penalty=0.01, free=1)
    np.testing.assert_allclose(scores, [[0, 0.26, 0.52, 0.78], [0, 1.02, 0.51, 1.03]])


def test_the_threshold_is_the_exact_quantile_of_few_images() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, 101))
    assert score_threshold(scores, 0.95) == 96, "ceil(101 * 0.95)"
    assert score_threshold(scores[:1], 0.5) == scores[0]
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999):
        least = least_calibration_images(coverage)
        assert score_threshold(np.arange(least), coverage) == least - 1
        assert score_threshold(np.arange(least - 1), coverage) == math.inf, "one image fewer shows nothing"


def test_coverage_and_size_have_intervals_and_stand_per_class() -> None:
    members = np.array([[True, False, False], [True, True, False], [True, False, False], [True, True, True]])
    found = measure(members, np.array([0, 0, 1, 1]), classes=["a", "b", "c"])
    assert (found["coverage"], found["mean_set_size"]) == (0.75, 1.75)
    assert found["coverage_ci95"] == list(accuracy_interval(np.array([True, True, False, True])))
    margin = 1.96 * np.std([1, 2, 1, 3]) / 2
    assert found["mean_set_size_ci95"] == pytest.approx([1.75 - margin, 1.75 + margin])
    of = found["sets_per_class"]
    assert [of[name]["coverage"] for name in "abc"] == [1.0, 0.5, None]
    assert [of[name]["mean_set_size"] for name in "abc"] == [1.5, 2.0, None]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
