import json

import numpy as np
import pytest

from darkroom.errors import DataError
from darkroom.promotion.answers import Answers, Scored
from darkroom.promotion.decision import decide
from darkroom.promotion.params import Gates
from darkroom.promotion.slices import Slice

OFF = dict.fromkeys(Gates.model_fields)
RULE = {
    "min_test_images": 100,
    "min_test_accuracy": 0.9,
    "champion": {"margin": 0.0, "alpha": 0.05},
    "class_recall": {"max_drop": 0.02, "alpha": 0.05},
    "slice_accuracy": {"by": ["brightness"], "max_drop": 0.02, "alpha": 0.05, "min_images": 20},
    "max_ece": 0.1,
    "max_latency_ms_p95": 5.0,
    "max_model_bytes": 1_000_000,
    "max_parity_difference": 0.00001,
}
METRICS = {"ece": 0.02, "latency_ms_p95": 0.5, "model_bytes": 400_000}
LABELS = np.array(["cat", "dog"] * 100)
SLICES = [Slice("dark", np.arange(200) < 50), Slice("bright", np.arange(200) >= 50)]


def answers(n_wrong, *, n=200, start=0):
    correct = np.ones(n, bool)
    correct[start : start + n_wrong] = False
    return correct


def of(correct):
    """Answers that are certain, right or wrong."""
    return Answers(correct, log_loss=np.where(correct, 0.0, 16.1), brier=np.where(correct, 0.0, 2.0))


def decided(candidate, champion=None, *, rule=RULE, metrics=METRICS, **changes):
    gates = Gates.model_validate({**rule, **changes})
    labels, slices = LABELS[: len(candidate)], [Slice(name, members[: len(candidate)]) for name, members in SLICES]
    current = None if champion is None else of(champion)
    test = Scored(labels, of(candidate), champion=current, slices=slices)
    known = ["cat", "dog"]
    return decide(test, classes=known, champion_classes=current and known, metrics=metrics, rule=gates)


def statuses(decision):
    return {name: answer["status"] for name, answer in decision.tests.items()}


def test_a_first_candidate_needs_what_no_champion_can_tell():
    decision = decided(answers(10))
    assert decision.promote
    assert decision.reasons == [
        "The candidate's test accuracy 95.00 % on 200 images reaches the minimum 90.00 %.",
        "There is no champion yet.",
        "Also passed: min_test_images, max_ece, max_latency_ms_p95, max_model_bytes.",
    ]
    assert {name for name, status in statuses(decision).items() if status == "not_applicable"} == {
        "champion", "class_recall", "slice_accuracy", "max_parity_difference",
    }  # fmt: skip


def test_every_gate_answers_in_the_order_of_the_rule():
    for decision in (decided(answers(2), answers(14, start=60)), decided(answers(2), rule=OFF)):
        assert list(decision.tests) == list(RULE)
        assert all(answer["sentence"].endswith(".") for answer in decision.tests.values())


def test_a_better_candidate_is_promoted():
    decision = decided(answers(2), answers(14, start=60))
    assert decision.promote
    assert set(statuses(decision).values()) == {"passed", "not_applicable"}
    assert "is better than the champion (93.00 %)" in decision.reasons[1]
    assert decision.reasons[2].startswith("Also passed: min_test_images, class_recall, slice_accuracy, max_ece,")


def test_below_the_floor_nothing_is_promoted():
    decision = decided(answers(30), answers(60))
    assert not decision.promote
    assert "is below the minimum 90.00 %" in decision.reasons[0]
    assert decision.tests["champion"]["status"] == "passed"


def test_a_candidate_that_loses_the_dark_images_is_kept_out():
    decision = decided(answers(8), answers(30, start=100))
    assert not decision.promote
    assert statuses(decision)["champion"] == "passed"
    assert statuses(decision)["slice_accuracy"] == "failed"
    assert "slices dropped by more than 2 points" in decision.reasons[2]


@pytest.mark.parametrize(
    ("metric", "gate", "value", "sentence"),
    [
        ("ece", "max_ece", 0.12, "The candidate's expected calibration error 0.12 is above the limit 0.1."),
        ("latency_ms_p95", "max_latency_ms_p95", 7.5, "The candidate's latency of one image (p95) 7.5 ms is above"),
        ("model_bytes", "max_model_bytes", 2_000_000, "The candidate's model of 2,000,000 bytes is above the limit"),
    ],
)
def test_a_measure_above_its_limit_keeps_the_candidate_out(metric, gate, value, sentence):
    decision = decided(answers(2), metrics={**METRICS, metric: value})
    assert not decision.promote
    assert decision.tests[gate]["status"] == "failed"
    assert decision.reasons[2].startswith(sentence)
    assert decided(answers(2), metrics={**METRICS, metric: value}, **{gate: None}).promote


def test_a_small_test_set_gives_no_verdict():
    decision = decided(answers(0, n=99))
    assert not decision.promote
    assert "The test set has 99 images, too few for a decision (minimum: 100)." in decision.reasons


def test_a_gate_that_is_off_decides_nothing_and_says_so():
    decision = decided(answers(150), answers(0), rule=OFF, metrics={})
    assert decision.promote
    assert set(statuses(decision).values()) == {"off"}
    assert decision.reasons == [
        "The gate min_test_accuracy is off (promote.gates.min_test_accuracy is null).",
        "The gate champion is off (promote.gates.champion is null).",
    ]


def test_a_metric_that_was_not_measured_is_named():
    with pytest.raises(DataError, match="the evaluation has no ece, which promote limits; run `dvc repro --force"):
        decided(answers(2), metrics={})


def test_the_tests_are_plain_values_for_json():
    tests = decided(answers(2), answers(9, start=60)).tests
    assert json.loads(json.dumps(tests)) == tests


def test_scores_on_different_images_are_refused():
    with pytest.raises(DataError, match=r"scored on \(150,\) and \(160,\) images"):
        decided(answers(0, n=150), answers(0, n=160))
    with pytest.raises(DataError, match=r"labels of shape \(3,\) for 200 images"):
        decide(Scored(LABELS[:3], of(answers(0))), classes=["cat"], metrics={}, rule=Gates.model_validate(OFF))


def test_no_images_are_refused():
    with pytest.raises(DataError, match=r"array of shape \(0,\), expected \(n,\) with n >= 1"):
        decided(np.ones(0, bool))
