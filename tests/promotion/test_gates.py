import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.promotion import gates
from darkroom.promotion.slices import Slice


def answers(n_wrong, *, n=200, start=0):
    correct = np.ones(n, bool)
    correct[start : start + n_wrong] = False
    return correct


def test_a_test_set_that_is_too_small_gives_no_verdict():
    assert gates.enough_images(100, limit=100).status == "passed"
    verdict = gates.enough_images(99, limit=100)
    assert verdict.status == "failed"
    assert verdict.sentence == "The test set has 99 images, too few for a decision (minimum: 100)."


def test_a_candidate_exactly_at_the_floor_reaches_it():
    assert gates.floor(answers(20), limit=0.9).status == "passed"
    verdict = gates.floor(answers(21), limit=0.9)
    assert verdict.status == "failed"
    assert verdict.sentence == "The candidate's test accuracy 89.50 % on 200 images is below the minimum 90.00 %."


def test_a_class_that_is_lost_is_named_with_its_numbers():
    labels = np.repeat(["cat", "dog", "horse"], 100)
    candidate, current = answers(12, n=300), answers(40, n=300, start=150)  # cats lost, dogs won
    verdict = gates.class_recall(candidate, current, labels, max_drop=0.05, max_unproven_drop=1.0, alpha=0.05)
    assert verdict.status == "failed"
    assert verdict.sentence == (
        "The recall of 1 of 3 classes dropped by more than 5 points, significantly (exact paired tests, "
        "Holm-corrected, alpha 0.05): cat (100.00 % to 88.00 %, 100 images, p = 0.000732)."
    )
    assert [line["name"] for line in verdict.numbers["classes"]] == ["cat", "horse", "dog"]
    assert verdict.numbers["classes"][0]["p_value_holm"] == pytest.approx(3 / 2**12)


def test_a_drop_counts_only_if_it_is_large_and_significant():
    labels = np.repeat(["cat", "dog"], 100)
    current = answers(0)
    large = gates.class_recall(answers(12), current, labels, max_drop=0.2, max_unproven_drop=1.0, alpha=0.05)
    assert large.status == "passed"
    assert large.sentence == (
        "The recall of no class dropped by more than 20 points, significantly (exact paired tests, Holm-corrected, "
        "alpha 0.05); the largest drop of 2: cat (100.00 % to 88.00 %, 100 images, p = 0.000488)."
    )
    assert (
        gates.class_recall(answers(4), current, labels, max_drop=0.02, max_unproven_drop=1.0, alpha=0.05).status
        == "passed"
    )
    assert (
        gates.class_recall(answers(6), current, labels, max_drop=0.02, max_unproven_drop=1.0, alpha=0.05).status
        == "failed"
    )


def test_holm_asks_more_of_a_drop_among_many_classes():
    candidate, current = answers(6, n=1000), answers(0, n=1000)
    few, many = (np.arange(1000) // size for size in (500, 50))
    options = {"max_drop": 0.0, "max_unproven_drop": 1.0, "alpha": 0.05}
    assert gates.class_recall(candidate, current, few.astype(str), **options).status == "failed"
    assert gates.class_recall(candidate, current, many.astype(str), **options).status == "passed"


def test_a_slice_that_is_lost_fails_although_all_classes_gain():
    dark = np.arange(200) < 40
    candidate, current = answers(10), answers(30, start=100)
    slices = [Slice("brightness up to 20", dark), Slice("brightness above 20", ~dark)]
    verdict = gates.slice_accuracy(candidate, current, slices, max_drop=0.05, alpha=0.05, min_images=20)
    assert verdict.status == "failed"
    assert "of 1 of 2 slices dropped by more than 5 points" in verdict.sentence
    assert "brightness up to 20 (100.00 % to 75.00 %, 40 images, p = 0.00195)" in verdict.sentence


def test_slices_without_enough_images_are_left_out():
    part = Slice("source kitchen", np.arange(200) < 10)
    options = {"max_drop": 0.0, "alpha": 1.0}
    assert gates.slice_accuracy(answers(10), answers(0), [part], min_images=10, **options).status == "failed"
    verdict = gates.slice_accuracy(answers(10), answers(0), [part], min_images=11, **options)
    assert verdict.status == "not_applicable"
    assert verdict.sentence == "There are no slices to compare: no slice has 11 images."
    verdict = gates.slice_accuracy(answers(10), answers(0), [], min_images=11, **options)
    assert verdict.sentence.endswith("no attribute in `by` varies.")


def test_a_measure_at_its_limit_is_within_it():
    verdict = gates.at_most("latency_ms_p95", 2.5, limit=2.5, what="latency", unit=" ms")
    assert verdict.as_dict() == {
        "status": "passed",
        "sentence": "The candidate's latency 2.5 ms is within the limit 2.5 ms.",
        "latency_ms_p95": 2.5,
        "max_latency_ms_p95": 2.5,
    }
    verdict = gates.at_most("model_bytes", 16_142_677, limit=2_000_000, what="model of", unit=" bytes")
    assert verdict.status == "failed"
    assert verdict.sentence == "The candidate's model of 16,142,677 bytes is above the limit 2,000,000 bytes."


def test_parity_says_how_far_apart_the_answers_are():
    assert gates.parity(1e-6, limit=1e-5, n_images=64).status == "passed"
    verdict = gates.parity(0.25, limit=1e-5, n_images=64)
    assert verdict.status == "failed"
    assert (
        "does not reproduce the probabilities of 64 test images: maximum difference 0.25 (limit 1e-05)"
        in verdict.sentence
    )


@pytest.mark.parametrize(
    ("n_images", "n_lost", "status"), [(10, 5, "failed"), (27, 6, "failed"), (30, 7, "failed"), (30, 4, "passed")]
)
def test_a_large_loss_of_a_small_class_is_seen(n_images, n_lost, status):
    labels = np.repeat([str(k) for k in range(10)], n_images)
    candidate = answers(n_lost, n=len(labels))
    verdict = gates.class_recall(
        candidate, answers(0, n=len(labels)), labels, max_drop=0.1, max_unproven_drop=0.2, alpha=0.05
    )
    assert verdict.status == status


def test_a_loss_that_cannot_be_told_from_chance_is_reported():
    labels = np.repeat(["cat", "dog"], 10)
    options = {"max_drop": 0.1, "max_unproven_drop": 0.2, "alpha": 0.05}
    verdict = gates.class_recall(answers(4, n=20), answers(0, n=20), labels, **options)
    assert verdict.status == "passed"
    assert verdict.numbers["cannot_tell"] == ["cat"]
    assert verdict.sentence.endswith(
        "Too few images to tell a loss from chance: cat (100.00 % to 60.00 %; with 10 images a drop must be 60 points "
        "or more to be significant)."
    )
    few = gates.class_recall(answers(3, n=6), answers(0, n=6), np.repeat(["cat", "dog"], 3), **options)
    assert few.sentence.endswith("cat (100.00 % to 0.00 %; with 3 images no drop can be significant).")


@settings(deadline=None, derandomize=True, database=None, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_smallest_provable_drop_is_the_smallest(n_images, n_classes, data):
    labels = np.repeat([str(k) for k in range(n_classes)], n_images)
    n_lost = data.draw(st.integers(0, n_images))
    verdict = gates.class_recall(
        answers(n_lost, n=len(labels)),
        answers(0, n=len(labels)),
        labels,
        max_drop=0.0,
        max_unproven_drop=1.0,
        alpha=0.05,
    )
    smallest = verdict.numbers["classes"][0]["smallest_provable_drop"]
    assert (verdict.status == "failed") == (smallest is not None and n_lost / n_images >= smallest)


def test_recall_and_number_of_images_are_asked_of_each_class():
    labels = np.repeat(["cat", "dog", "eel"], [50, 40, 3])
    verdict = gates.recall_of(
        answers(30, n=93), labels, ["cat", "dog", "eel", "fox"], min_recall=0.5, min_images=4, of="class"
    )
    assert verdict.status == "failed"
    assert verdict.sentence == (
        "The candidate's recall is below 50.00 %, the minimum for a class: cat (40.00 %, 50 images). Too few images to "
        "test (minimum for a class: 4): fox (0), eel (3); add images, or lower promote.gates.every_class.min_images."
    )
    verdict = gates.recall_of(answers(25, n=93), labels, ["cat", "dog"], min_recall=0.5, min_images=40, of="class")
    assert verdict.sentence == "The lowest recall of 2: cat (50.00 %, 50 images); the minimum for a class is 50.00 %."
