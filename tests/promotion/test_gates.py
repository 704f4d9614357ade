import numpy as np
import pytest

from darkroom.promotion import gates
from darkroom.promotion.slices import Slice

CHAMPION = {"margin": 0.0, "alpha": 0.05}


def answers(n_wrong, *, n=200, start=0):
    correct = np.ones(n, bool)
    correct[start : start + n_wrong] = False
    return correct


def against(candidate, current, **changes):
    return gates.champion(candidate, current, **{**CHAMPION, **changes})


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


def test_a_better_candidate_passes_with_numbers_in_the_sentence():
    verdict = against(answers(2), answers(14, start=50))
    assert verdict.status == "passed"
    low, high = verdict.numbers["difference_ci95"]
    assert 0.01 < low < 0.06 < high < 0.11
    assert verdict.sentence == (
        "The candidate (99.00 %) is better than the champion (93.00 %) on the same 200 test images: only the candidate "
        f"is correct on 14, only the champion on 2; the difference, +6.00 points (95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}), is more than chance (exact McNemar test, p = 0.00418 <= 0.05)."
    )


def test_many_disagreements_name_the_other_form_of_the_test():
    assert "(mid-p McNemar test, p = " in against(answers(2), answers(40, start=50)).sentence


def test_a_worse_candidate_fails():
    verdict = against(answers(20), answers(6, start=50))
    assert verdict.status == "failed"
    assert "is worse than the champion (97.00 %)" in verdict.sentence


def test_the_same_answers_keep_the_champion():
    verdict = against(answers(4), answers(4))
    assert verdict.status == "failed"
    assert verdict.sentence == (
        "Candidate and champion make the same errors on 200 test images (98.00 %), so the champion stays."
    )


def test_equal_accuracy_with_other_errors_keeps_the_champion():
    verdict = against(answers(4), answers(4, start=100))
    assert verdict.status == "failed"
    assert "is as good as the champion" in verdict.sentence
    assert "is within chance (exact McNemar test, p = 1 > 0.05)" in verdict.sentence


def test_too_few_disagreements_to_tell_keep_the_champion():
    verdict = against(answers(0), answers(5))
    assert verdict.status == "failed"
    assert verdict.numbers["too_few_disagreements"]
    said = "not significant, too few disagreements (at least 6 are needed at alpha 0.05), so the champion stays."
    assert verdict.sentence.endswith(said)
    assert against(answers(0), answers(6)).status == "passed"


def test_with_alpha_one_any_gain_counts():
    assert against(answers(4), answers(5), alpha=1.0).status == "passed"
    assert against(answers(5), answers(4), alpha=1.0).status == "failed"


def test_a_margin_admits_what_is_certainly_hardly_worse():
    candidate, current = answers(30, n=10_000), answers(25, n=10_000, start=5000)
    assert against(candidate, current).status == "failed"
    verdict = against(candidate, current, margin=0.005)
    assert verdict.status == "passed"
    assert verdict.numbers["difference_ci95"][0] >= -0.005
    assert verdict.sentence.endswith("), which keeps the margin of 0.5 points.")
    assert against(candidate, current, margin=0.001).status == "failed"


def test_a_margin_is_not_certain_to_be_kept_on_few_images():
    verdict = against(answers(0, n=50), answers(0, n=50), margin=0.01)
    assert verdict.status == "failed"
    assert "make the same errors on 50 test images (100.00 %)" in verdict.sentence
    assert verdict.sentence.endswith("), which is not certain to stay within the margin of 1 points.")
    assert against(answers(0, n=5000), answers(0, n=5000), margin=0.01).status == "passed"


def test_a_class_that_is_lost_is_named_with_its_numbers():
    labels = np.repeat(["cat", "dog", "horse"], 100)
    candidate, current = answers(12, n=300), answers(40, n=300, start=150)  # cats lost, dogs won
    verdict = gates.class_recall(candidate, current, labels, max_drop=0.05, alpha=0.05)
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
    large = gates.class_recall(answers(12), current, labels, max_drop=0.2, alpha=0.05)
    assert large.status == "passed"
    assert large.sentence == (
        "The recall of no class dropped by more than 20 points, significantly (exact paired tests, Holm-corrected, "
        "alpha 0.05); the largest drop of 2: cat (100.00 % to 88.00 %, 100 images, p = 0.000488)."
    )
    assert gates.class_recall(answers(4), current, labels, max_drop=0.02, alpha=0.05).status == "passed"
    assert gates.class_recall(answers(6), current, labels, max_drop=0.02, alpha=0.05).status == "failed"


def test_holm_asks_more_of_a_drop_among_many_classes():
    candidate, current = answers(6, n=1000), answers(0, n=1000)
    few, many = (np.arange(1000) // size for size in (500, 50))
    options = {"max_drop": 0.0, "alpha": 0.05}
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
