import json
from typing import Any

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
    "every_class": {"min_recall": 0.5, "min_images": 40},
    "new_class": {"min_recall": 0.8, "min_images": 50},
    "champion": {"statistic": "accuracy", "margin": 0.0, "alpha": 0.05, "comparisons": 1},
    "champion_recent": {"min_images": 50},
    "class_recall": {"max_drop": 0.02, "max_unproven_drop": 0.2, "alpha": 0.05},
    "slice_accuracy": {"by": ["brightness"], "max_drop": 0.02, "alpha": 0.05, "min_images": 20},
    "max_ece": 0.1,
    "max_error_answered": 0.01,
    "min_answered": 0.9,
    "min_coverage": 0.9,
    "max_latency_ms_p95": 5.0,
    "max_model_bytes": 1_000_000,
    "max_parity_difference": 0.00001,
}
METRICS = {"ece": 0.02, "latency_ms_p95": 0.5, "model_bytes": 400_000, "error_answered": 0.01, "share_answered": 0.9}
METRICS |= {"coverage": 0.9}
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
        "Also passed: minimum test images, every class, maximum calibration error, maximum error answered, minimum "
        "answered, minimum coverage, maximum latency ms p95, maximum model bytes.",
    ]
    assert {name for name, status in statuses(decision).items() if status == "not_applicable"} == {
        "new_class", "champion", "champion_recent", "class_recall", "slice_accuracy", "max_parity_difference",
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
    assert decision.reasons[-1].startswith(
        "Also passed: minimum test images, every class, class recall, slice accuracy, maximum "
    )


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
        (
            "error_answered",
            "max_error_answered",
            0.02,
            "The candidate's share of wrong answers among those given 0.02 is",
        ),
        (
            "share_answered",
            "min_answered",
            0.5,
            "The candidate's share of test images answered 50.00 % is below the minimum",
        ),
        (
            "coverage",
            "min_coverage",
            0.89,
            "The candidate's share of test images with the true class in the prediction set 89.00 % is below the",
        ),
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


def test_a_class_that_is_lost_needs_an_approval():
    labels, right = np.array(["cat"] * 200), of(answers(0))
    test = Scored(labels, right, champion=of(answers(20)))
    rule = Gates.model_validate({**RULE, "slice_accuracy": None})
    decision = decide(test, classes=["cat"], champion_classes=["cat", "dog", "eel"], metrics=METRICS, rule=rule)
    assert decision.promote
    assert decision.needs_approval == [
        "The champion knows dog, eel, the candidate does not; losing a class needs an approval."
    ]
    assert decided(answers(2), answers(14, start=60)).needs_approval == []


@pytest.mark.parametrize(("n_wrong", "status"), [(10, "passed"), (11, "failed")])
def test_a_new_class_has_a_gate_of_its_own(n_wrong, status):
    labels = np.array(["eel"] * 50 + ["cat"] * 150)
    test = Scored(labels, of(answers(n_wrong)), champion=of(answers(50)))
    rule = Gates.model_validate({**RULE, "slice_accuracy": None})
    known: dict[str, Any] = {"classes": ["cat", "eel"], "champion_classes": ["cat"]}
    decision = decide(test, **known, metrics=METRICS, rule=rule)
    assert decision.tests["new_class"]["status"] == status
    assert decision.promote == (status == "passed")
    assert decision.reasons[-1] == "The champion does not know eel; their images count as its errors."


def test_a_rare_class_that_is_never_found_keeps_a_model_out():
    labels, correct = np.array(["rare"] * 40 + ["cat"] * 960), np.arange(1000) >= 40
    decision = decide(
        Scored(labels, of(correct)), classes=["cat", "rare"], metrics=METRICS, rule=Gates.model_validate(RULE)
    )
    assert not decision.promote
    assert decision.tests["min_test_accuracy"]["status"] == "passed"
    assert decision.reasons[2] == (
        "The candidate's recall is below 50.00 %, the minimum for a class: rare (0.00 %, 40 images)."
    )


def test_a_class_without_test_images_keeps_a_model_out():
    decision = decide(
        Scored(LABELS, of(answers(0))), classes=["cat", "dog", "eel"], metrics=METRICS, rule=Gates.model_validate(RULE)
    )
    assert not decision.promote
    assert decision.reasons[2] == (
        "Too few images to test (minimum for a class: 40): eel (0); add images, or lower "
        "promote.gates.every_class.min_images."
    )


def test_recent_images_count_for_the_classes():
    recent = Scored(np.array(["eel"] * 40), of(answers(0, n=40)))
    decision = decide(
        Scored(LABELS, of(answers(0))),
        recent=recent,
        classes=["cat", "dog", "eel"],
        metrics=METRICS,
        rule=Gates.model_validate(RULE),
    )
    assert decision.promote


def with_recent(test, recent, **changes):
    candidate, champion = map(of, test)
    ours, theirs = map(of, recent)
    labels = LABELS[: len(recent[0])]
    return decide(
        Scored(LABELS, candidate, champion=champion),
        recent=Scored(labels, ours, champion=theirs),
        classes=["cat", "dog"],
        champion_classes=["cat", "dog"],
        metrics=METRICS,
        rule=Gates.model_validate({**RULE, "slice_accuracy": None, **changes}),
    )


def test_a_gain_on_recent_images_replaces_a_stale_champion():
    as_good = (answers(4), answers(4, start=100))
    decision = with_recent(as_good, (answers(0, n=100), answers(60, n=100)))
    assert decision.promote
    assert decision.reasons[1].endswith(
        "The gain on the recent images decides; on the test set nothing is lost significantly."
    )
    assert "on the same 100 recent images" in decision.reasons[2]
    assert not with_recent(as_good, (answers(0, n=49), answers(30, n=49))).promote, "too few recent images"
    off = with_recent(as_good, (answers(0, n=100), answers(60, n=100)), champion_recent=None)
    assert not off.promote


def test_recent_images_and_test_set_share_alpha():
    as_good, gain = (answers(4), answers(4, start=100)), (answers(0), answers(5))
    assert not with_recent(gain, as_good).promote
    assert with_recent(gain, as_good, champion_recent=None).promote
    assert with_recent((answers(0), answers(6)), as_good).promote


def test_only_images_that_no_model_has_seen_are_compared():
    seen = np.arange(200) < 90
    test = Scored(LABELS, of(answers(14)), champion=of(answers(2, start=150)), comparable=~seen)
    known: dict[str, Any] = {"classes": ["cat", "dog"], "champion_classes": ["cat", "dog"]}
    rule = {**RULE, "slice_accuracy": None, "min_test_accuracy": 0.5}
    decision = decide(test, **known, metrics=METRICS, rule=Gates.model_validate(rule))
    assert decision.tests["champion"]["n_images"] == 110
    assert decision.tests["class_recall"]["classes"][0]["n_images"] == 55
    assert decision.tests["min_test_accuracy"]["test_accuracy"] == 0.93
    few = decide(test, **known, metrics=METRICS, rule=Gates.model_validate({**rule, "min_test_images": 222}))
    assert "Of 200 test images only 110 were not seen by either model" in few.reasons[1]


def test_used_up_comparisons_are_warned_about_in_the_reasons():
    test = Scored(LABELS, of(answers(2)), champion=of(answers(20, start=60)))
    known: dict[str, Any] = {"classes": ["cat", "dog"], "champion_classes": ["cat", "dog"]}
    rule = Gates.model_validate({**RULE, "slice_accuracy": None})
    decision = decide(test, **known, metrics=METRICS, rule=rule, n_comparisons=2)
    assert any(
        "The comparisons planned on this test set (1) are used up; this is the 2nd:" in reason
        for reason in decision.reasons
    )
