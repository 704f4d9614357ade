import json
import math
from itertools import pairwise

import numpy as np
import pytest

from darkroom.errors import DataError
from darkroom.promotion import Rule, compare, decide

RULE = Rule(min_test_accuracy=0.9, alpha=0.05)


def answers(n_wrong, *, n=200, start=0):
    correct = np.ones(n, bool)
    correct[start : start + n_wrong] = False
    return correct


def test_a_first_candidate_needs_the_floor_alone():
    decision = decide(answers(10), None, RULE)
    assert decision.promote
    assert decision.reasons == [
        "The candidate's test accuracy 95.00 % on 200 images reaches the floor 90.00 %.",
        "There is no champion to compare with.",
    ]
    assert "mcnemar" not in decision.tests


def test_a_candidate_exactly_at_the_floor_reaches_it():
    assert decide(answers(20), None, RULE).promote
    assert not decide(answers(21), None, RULE).promote


def test_below_the_floor_nothing_is_promoted_even_if_it_beats_the_champion():
    decision = decide(answers(30), answers(60), RULE)
    assert not decision.promote
    assert "is below the floor 90.00 %" in decision.reasons[0]
    assert decision.tests["mcnemar"]["passed"]


def test_a_better_candidate_is_promoted_and_the_numbers_are_in_the_reasons():
    decision = decide(answers(2), answers(14, start=50), RULE)
    assert decision.promote
    assert decision.reasons[1] == (
        "The candidate (99.00 %) is better than the champion (93.00 %) on the same 200 test images: it alone is right "
        "on 14, the champion alone on 2; the difference is more than chance (exact McNemar test, p = 0.00418 <= 0.05)."
    )


def test_a_worse_candidate_is_kept_out_even_if_the_difference_is_within_chance():
    decision = decide(answers(5), answers(4), RULE)
    assert not decision.promote
    assert "worse than" in decision.reasons[1]
    assert "within chance" in decision.reasons[1]


def test_the_same_answers_change_nothing():
    decision = decide(answers(4), answers(4), RULE)
    assert not decision.promote
    assert "the same 200 test images (98.00 %), so the champion stays" in decision.reasons[1]


def test_equal_accuracy_with_other_errors_keeps_the_champion():
    decision = decide(answers(4), answers(4, start=100), RULE)
    assert not decision.promote
    assert "as good as" in decision.reasons[1]


def test_a_gain_within_chance_keeps_the_champion_unless_alpha_is_one():
    candidate, champion = answers(0), answers(5)
    decision = decide(candidate, champion, RULE)
    assert not decision.promote
    assert "within chance (exact McNemar test, p = 0.0625 > 0.05)" in decision.reasons[1]
    assert decide(candidate, champion, Rule(min_test_accuracy=0.9, alpha=1.0)).promote
    assert not decide(champion, candidate, Rule(min_test_accuracy=0.9, alpha=1.0)).promote


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 0), (10, 2), (25, 25), (40, 12)])
def test_the_p_value_is_the_exact_binomial_one(gained, lost):
    champion = answers(gained, start=0)
    candidate = answers(lost, start=100)
    n, most = gained + lost, max(gained, lost)
    tail = sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n
    found = compare(candidate, champion, alpha=0.05)
    assert found["n_only_candidate_correct"] == gained
    assert found["n_only_champion_correct"] == lost
    assert found["p_value"] == pytest.approx(min(1.0, 2 * tail))


def test_the_p_value_falls_as_the_difference_grows():
    values = [compare(answers(1), answers(n, start=50), alpha=0.05)["p_value"] for n in range(1, 20)]
    assert all(later <= earlier for earlier, later in pairwise(values))


def test_the_tests_are_plain_values_for_json():
    tests = decide(answers(2), answers(9, start=50), RULE).tests
    assert json.loads(json.dumps(tests)) == tests


def test_scores_on_different_images_are_refused():
    with pytest.raises(DataError, match=r"candidate was scored on \(3,\) images and the champion on \(4,\)"):
        decide(np.ones(3, bool), np.ones(4, bool), RULE)


def test_no_images_are_refused():
    with pytest.raises(DataError, match=r"array of shape \(0,\), expected \(n,\) with n >= 1"):
        decide(np.ones(0, bool), None, RULE)
