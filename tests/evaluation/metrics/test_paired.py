import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from darkroom.errors import DataError
from darkroom.evaluation.metrics.paired import (
    Table,
    compare,
    difference_interval,
    gain_p_value,
    holm,
    loss_p_values,
    mcnemar,
    mean_gain_p_value,
    overstated_accuracy,
    table,
)

COUNTS = st.integers(0, 300)
LIKE_EVERY_TIME = settings(deadline=None, derandomize=True, database=None, max_examples=50)
TABLES = st.builds(Table, COUNTS, COUNTS, COUNTS, COUNTS).filter(lambda counts: sum(counts) > 0)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def tail(most, n):
    """The probability of at least `most` heads in n throws of a coin, in integers."""
    return sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n


def test_the_table_counts_who_is_right_where():
    a, b = np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 1, 0, 0], bool)
    assert table(a, b) == Table(both=1, only_a=2, only_b=1, neither=2)
    assert table(a, b).difference == pytest.approx(1 / 6)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 0), (10, 2), (12, 12), (4, 20)])
def test_few_disagreements_get_the_exact_binomial_p_value(only_a, only_b):
    p_value, form = mcnemar(only_a, only_b)
    assert form == "exact"
    assert p_value == pytest.approx(min(1.0, 2 * tail(max(only_a, only_b), only_a + only_b)))


@pytest.mark.parametrize(("only_a", "only_b"), [(25, 0), (40, 12), (200, 250)])
def test_many_disagreements_get_the_mid_p_value(only_a, only_b):
    n, most = only_a + only_b, max(only_a, only_b)
    p_value, form = mcnemar(only_a, only_b)
    assert form == "mid-p"
    assert p_value == pytest.approx(2 * tail(most, n) - math.comb(n, most) / 2**n)


def test_a_published_table_gets_its_published_p_value():
    """Bentur et al. 2009 as of Fagerland et al. 2013, table 1: 1 and 7 discordant pairs, exact p = 0.070."""
    p_value, form = mcnemar(1, 7)
    assert p_value == pytest.approx(0.0703, abs=5e-5)
    assert form == "exact"


def test_without_disagreements_nothing_is_significant():
    assert mcnemar(0, 0) == (1.0, "exact")


@LIKE_EVERY_TIME
@given(COUNTS, COUNTS)
def test_the_p_value_does_not_depend_on_who_is_called_a(only_a, only_b):
    p_value, form = mcnemar(only_a, only_b)
    assert mcnemar(only_b, only_a) == (p_value, form)
    assert 0 < p_value <= 1


@LIKE_EVERY_TIME
@given(COUNTS, COUNTS)
def test_one_side_is_half_of_two(gained, lost):
    one, other = gain_p_value(gained, lost), gain_p_value(lost, gained)
    assert mcnemar(gained, lost)[0] == pytest.approx(min(1, 2 * min(one[0], other[0])))
    if one[1] == "mid-p":
        assert one[0] + other[0] == pytest.approx(1)


def test_a_mean_gain_has_the_p_value_of_a_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 40))
    assert mean_gain_p_value(a, b + 0.3) == pytest.approx(ttest_rel(a, b + 0.3, alternative="less").pvalue)
    assert mean_gain_p_value(a, b) + mean_gain_p_value(b, a) == pytest.approx(1)


def test_equal_or_single_losses_prove_nothing():
    assert mean_gain_p_value(np.ones(5), np.ones(5)) == 1.0
    assert mean_gain_p_value(np.zeros(1), np.ones(1)) == 1.0
    assert mean_gain_p_value(np.zeros(5), np.ones(5)) == 0.0


def test_the_p_value_falls_as_the_difference_grows():
    values = [mcnemar(1, n)[0] for n in range(1, 60)]
    assert all(later <= earlier for earlier, later in pairwise(values))


@LIKE_EVERY_TIME
@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=20))
def test_the_p_value_of_a_loss_is_exact_and_one_sided(pairs):
    found = loss_p_values(*zip(*pairs, strict=True))
    expected = [tail(lost, gained + lost) for gained, lost in pairs]
    assert found == pytest.approx(expected, rel=1e-9)


def test_holm_adjusts_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@LIKE_EVERY_TIME
@given(P_VALUES)
def test_holm_lies_between_no_correction_and_bonferroni(values):
    adjusted = holm(values)
    assert (adjusted >= values).all()
    assert (adjusted <= np.minimum(1, np.array(values) * len(values))).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0).all()


@LIKE_EVERY_TIME
@given(TABLES)
def test_the_interval_holds_the_difference_and_turns_round(counts):
    low, high = difference_interval(counts)
    assert -1 <= low <= counts.difference <= high <= 1
    turned_low, turned_high = difference_interval(Table(counts.both, counts.only_b, counts.only_a, counts.neither))
    assert (-turned_high, -turned_low) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [(Table(59, 6, 16, 80), (-0.1195, -0.0032)), (Table(1, 1, 7, 12), (-0.508, -0.013))],
)
def test_the_interval_is_that_of_worked_examples(counts, expected):
    # Data of Cavo et al. 2012 and Bentur et al. 2009, as in Fagerland, Lydersen & Laake 2014
    assert difference_interval(counts) == pytest.approx(expected, abs=5e-4)


def test_the_interval_agrees_with_resampling_the_images():
    counts = Table(both=9880, only_a=45, only_b=30, neither=45)
    draws = np.random.default_rng(1).multinomial(10_000, np.array(counts) / 10_000, size=20_000)
    expected = np.quantile((draws[:, 1] - draws[:, 2]) / 10_000, [0.025, 0.975])
    assert difference_interval(counts) == pytest.approx(expected, abs=1e-4)


def test_the_interval_of_equal_answers_is_wider_for_fewer_images():
    few, many = (difference_interval(Table(n, 0, 0, 0)) for n in (20, 2000))
    assert few[0] < 10 * many[0] < 0 < 10 * many[1] < few[1]


def test_a_comparison_says_who_is_better_at_which_class():
    labels = np.repeat(["cat", "dog"], 100)
    a, b = np.ones(200, bool), np.ones(200, bool)
    a[:2], b[98:110] = False, False  # a errs on two cats, b on two cats and ten dogs
    found = compare(a, b, labels)
    assert (found["accuracy_a"], found["accuracy_b"], found["difference"]) == (0.99, 0.94, pytest.approx(0.05))
    counted = {"n_both_correct": 186, "n_only_a_correct": 12, "n_only_b_correct": 2, "n_both_wrong": 0}
    assert {key: found[key] for key in counted} == counted
    assert (found["p_value"], found["test"]) == (pytest.approx(2 * tail(12, 14)), "exact")
    assert found["difference_ci95"][0] > 0
    assert found["per_class"]["cat"]["p_value"] == 1.0
    dogs = found["per_class"]["dog"]
    assert (dogs["n_images"], dogs["recall_a"], dogs["recall_b"], dogs["difference"]) == (100, 1.0, 0.9, 0.1)
    assert dogs["p_value_holm"] == pytest.approx(2 * dogs["p_value"]) == pytest.approx(4 / 2**10)
    assert json.loads(json.dumps(found)) == found


@LIKE_EVERY_TIME
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("xyz")), min_size=1, max_size=60))
def test_the_tables_of_the_classes_add_up_to_the_whole(images):
    a, b, labels = (np.array(column) for column in zip(*images, strict=True))
    found = compare(a, b, labels)
    for key in ("n_images", "n_only_a_correct", "n_only_b_correct"):
        assert sum(of_class[key] for of_class in found["per_class"].values()) == found[key]


def test_scores_on_different_images_are_refused():
    with pytest.raises(DataError, match=r"scored on \(3,\) and \(4,\) images, expected \(n,\) twice with n >= 1"):
        table(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(DataError, match=r"scored on \(0,\) and \(0,\) images"):
        table(np.ones(0, bool), np.ones(0, bool))
    with pytest.raises(DataError, match=r"got labels of shape \(2,\) for \(3,\) images"):
        compare(np.ones(3, bool), np.ones(3, bool), np.array(["x", "y"]))


def test_most_of_what_a_choice_by_chance_adds_is_taken_off():
    """Two equal models, a year of test sets: the accuracy of the one that won by chance is too high."""
    rng = np.random.default_rng(1)
    raw, corrected = [], []
    for _ in range(4000):
        a, b = rng.random((2, 500)) < 0.9
        gains = a.astype(float) - b
        if gain_p_value(int((a & ~b).sum()), int((b & ~a).sum()))[0] <= 0.05:
            raw.append(a.mean() - 0.9)
            corrected.append(raw[-1] - overstated_accuracy(a, gains, level=0.05))
    assert np.mean(raw) > 0.015
    assert abs(np.mean(corrected)) < np.mean(raw) / 2


@LIKE_EVERY_TIME
@given(st.integers(0, 2**32 - 1), st.floats(0.0001, 1.0))
def test_the_correction_is_small_and_never_an_increase(seed, level):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 200)) < rng.random((2, 1))
    found = overstated_accuracy(a, a.astype(float) - b, level=level)
    assert 0 <= found <= max(0.0, a.mean() - b.mean()) + 1e-9


def test_without_a_significant_gain_nothing_is_corrected():
    assert overstated_accuracy(np.ones(50, bool), np.zeros(50), level=0.05) == 0.0
    assert overstated_accuracy(np.ones(1, bool), np.ones(1), level=0.05) == 0.0
