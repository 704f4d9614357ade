import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from darkroom.errors import DataError
from darkroom.evaluation import candidates
from darkroom.evaluation.metrics import classification

CLASSES = ["a", "b", "c", "d"]


def answers(n=500, n_classes=4, seed=0, sharpness=2.0):
    """Return plausible probabilities (n, n_classes) float32 and labels (n,) that they get right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + sharpness * np.eye(n_classes)[labels]
    exponents = np.exp(logits)
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32), labels


def score(probabilities, labels, **changes):
    settings: dict[str, Any] = {"classes": CLASSES, "calibration_bins": 15} | changes
    return classification.evaluate(probabilities, labels, **settings)


def test_the_metrics_are_those_of_scikit_learn():
    probabilities, labels = answers()
    predicted = probabilities.argmax(axis=1)
    result = score(probabilities, labels)
    assert result["test_accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    exact = probabilities.astype(np.float64)  # float32 rows sum to 1 only nearly, which scikit-learn warns about
    expected_loss = reference.log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=range(4))
    assert result["test_loss"] == pytest.approx(expected_loss, rel=1e-5)
    assert result["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, predicted)
    for number, name in enumerate(CLASSES):
        ours = result["per_class"][name]
        theirs = (precision[number], recall[number], f1[number], support[number])
        assert (ours["precision"], ours["recall"], ours["f1"], ours["support"]) == pytest.approx(theirs)
    np.testing.assert_array_equal(
        classification.confusion_matrix(predicted, labels, n_classes=4), reference.confusion_matrix(labels, predicted)
    )


def test_the_metrics_have_the_names_of_the_contract_and_fit_json():
    result = score(*answers())
    assert list(result) == ["test_accuracy", "test_accuracy_ci95", "test_loss", "macro_f1", "ece", "per_class"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_class_without_test_images_does_not_spoil_the_mean():
    probabilities = np.eye(4, dtype=np.float32)[[0, 1, 2, 2]]
    result = score(probabilities, np.array([0, 1, 2, 2]))
    assert result["per_class"]["d"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert result["macro_f1"] == 1.0
    never_right = score(probabilities, np.array([0, 1, 3, 3]))
    assert never_right["per_class"]["c"] == {"precision": 0.0, "recall": None, "f1": 0.0, "support": 0}
    assert never_right["per_class"]["d"] == {"precision": None, "recall": 0.0, "f1": 0.0, "support": 2}
    assert never_right["macro_f1"] == 0.5
    json.dumps(never_right, allow_nan=False)


def test_the_interval_agrees_with_resampling_the_images():
    correct = np.arange(10_000) < 9_960
    counts = np.random.default_rng(1).binomial(10_000, 0.996, size=20_000)
    expected = np.quantile(counts / 10_000, [0.025, 0.975])
    assert classification.accuracy_interval(correct) == pytest.approx(expected, abs=3e-4)


@pytest.mark.parametrize(
    ("n_correct", "n", "expected"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_the_interval_is_that_of_worked_examples(n_correct, n, expected):
    # Newcombe 1998, Two-sided confidence intervals for the single proportion, table I
    assert classification.accuracy_interval(np.arange(n) < n_correct) == pytest.approx(expected, abs=5e-5)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = classification.accuracy_interval(rng.random(500) < 0.8)
        hits += low <= 0.8 <= high
    assert 0.90 <= hits / 300 <= 0.99


def test_the_calibration_error_of_a_worked_example():
    # 0.9 sure three times and right twice; 0.6 sure twice and right twice: 3/5 |2/3 - 0.9| + 2/5 |1 - 0.6|
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = np.array([0, 0, 1, 0, 1])
    found = classification.expected_calibration_error(probabilities, labels, n_bins=10)
    assert found == pytest.approx(3 / 5 * (0.9 - 2 / 3) + 2 / 5 * 0.4)


def test_a_calibrated_classifier_has_almost_no_calibration_error():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 200_000)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    labels = (rng.random(200_000) > sure).astype(int)
    assert classification.expected_calibration_error(probabilities, labels) < 0.006


def test_the_reliability_curve_is_scikit_learns():
    from sklearn.calibration import calibration_curve

    probabilities, labels = answers(n=5000)
    curve = classification.reliability_curve(probabilities, labels, n_bins=10)
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=10)
    full = curve["count"] > 0
    np.testing.assert_allclose(curve["accuracy"][full], accuracy)
    np.testing.assert_allclose(curve["confidence"][full], confidence)
    assert curve["count"].sum() == 5000
    assert np.isnan(curve["accuracy"][~full]).all()


def test_a_confidence_on_an_edge_falls_into_a_bin():
    probabilities = np.array([[0.5, 0.5], [1.0000001, 0.0], [1.0, 0.0]])
    curve = classification.reliability_curve(probabilities, np.array([0, 0, 0]), n_bins=2)
    assert curve["count"].tolist() == [1, 2]


def test_the_worst_errors_have_the_highest_loss():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.99, 0.01], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([1, 1, 1, 1, 1])
    assert classification.worst_errors(probabilities, labels, n_errors=10).tolist() == [2, 0, 1, 4]
    assert classification.worst_errors(probabilities, labels, n_errors=2).tolist() == [2, 0]
    assert classification.worst_errors(probabilities[3:4], labels[3:4], n_errors=2).tolist() == []


def test_a_probability_of_zero_gives_a_finite_loss():
    loss = classification.losses(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert loss[0] == pytest.approx(16.118, abs=1e-3)


def winner(**candidates_held_out):
    """The winner of candidates of (accuracy, images held out, bytes of the model)."""
    trained = {
        name: {"held_out_accuracy": accuracy, "held_out_images": n_images}
        for name, (accuracy, n_images, _) in candidates_held_out.items()
    }
    model_bytes = {name: size for name, (_, _, size) in candidates_held_out.items()}
    return candidates.choose_winner(trained, model_bytes=model_bytes)


def test_the_winner_is_most_accurate_on_held_out_images():
    assert winner(a=(0.9, 100, 1), b=(0.91, 100, 9)) == "b"
    assert winner(a=(1.0, 18, 1), b=(0.94, 300, 9)) == "b", "18 images may be luck"
    assert winner(a=(1.0, 18, 1), b=(0.8, 300, 9)) == "a"
    assert winner(a=(25 / 30, 30, 9), b=(0.765, 255, 1)) == "a", (
        "a candidate must not lose only because few images judge it"
    )
    assert winner(a=(0.93, 300, 9), b=(0.9, 2500, 1)) == "a"


def test_of_equally_accurate_candidates_the_smallest_wins():
    assert winner(a=(0.9, 100, 9), b=(0.9, 100, 1)) == "b"
    assert winner(b=(0.9, 100, 1), a=(0.9, 100, 1)) == "a"


def test_an_interval_without_errors_does_not_claim_certainty():
    right = np.ones(270, bool)
    low, high = classification.accuracy_interval(right)
    assert low == pytest.approx(0.986, abs=1e-3)
    assert high == 1.0
    assert classification.accuracy_interval(~right) == pytest.approx((0.0, 1 - low))


def test_class_names_must_be_as_many_as_columns():
    with pytest.raises(DataError, match="got 2 class names for probabilities of 4 classes"):
        score(*answers(), classes=["a", "b"])


def test_rounding_of_float16_is_within_the_tolerance():
    probabilities, labels = answers()
    assert score(probabilities.astype(np.float16), labels)["test_accuracy"] > 0.5


@settings(deadline=None, derandomize=True, database=None, max_examples=50)
@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 10_000), st.integers(1, 30))
def test_every_metric_is_in_its_range(n, n_classes, seed, n_bins):
    probabilities, labels = answers(n=n, n_classes=n_classes, seed=seed)
    result = score(probabilities, labels, classes=[str(number) for number in range(n_classes)], calibration_bins=n_bins)
    low, high = result["test_accuracy_ci95"]
    assert 0 <= low <= high <= 1
    for name in ("test_accuracy", "macro_f1", "ece"):
        assert 0 <= result[name] <= 1
    assert sum(entry["support"] for entry in result["per_class"].values()) == n
