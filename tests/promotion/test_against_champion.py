from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.promotion import against_champion
from darkroom.promotion.answers import Answers, Scored
from darkroom.promotion.params import ChampionGate
from darkroom.promotion.slices import Slice

RULE = {"statistic": "accuracy", "margin": 0.0, "alpha": 0.05, "comparisons": 1}
LIKE_EVERY_TIME = settings(deadline=None, derandomize=True, database=None, max_examples=50)


def answers(n_wrong, *, n=200, start=0, sure=1.0):
    """Answers that are wrong on some images, all given with the same probability."""
    correct = np.ones(n, bool)
    correct[start : start + n_wrong] = False
    truth = np.where(correct, sure, 1 - sure)
    return Answers(correct, log_loss=-np.log(np.maximum(truth, 1e-7)), brier=2 * (1 - truth) ** 2)


def against(candidate, current, *, n_comparisons=1, n_tests=1, least=1, seen=None, reference=None, **changes):
    comparable = None if seen is None else ~seen
    labels = np.full(len(candidate.correct), "cat")
    images = Scored(labels, candidate, champion=current, comparable=comparable, reference=reference)
    rule = ChampionGate.model_validate({**RULE, **changes})
    return against_champion.champion(images, rule=rule, n_comparisons=n_comparisons, n_tests=n_tests, least=least)


def test_a_better_candidate_passes_with_numbers_in_the_sentence():
    verdict = against(answers(2), answers(14, start=50))
    assert verdict.status == "passed"
    low, high = verdict.numbers["difference_ci95"]
    assert 0.01 < low < 0.06 < high < 0.11
    assert verdict.sentence == (
        "The candidate (99.00 %) is better than the champion (93.00 %) on the same 200 test images: only the candidate "
        f"is correct on 14, only the champion on 2; the difference, +6.00 points (95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}), is more than chance (one-sided exact McNemar test, p = 0.00209 <= 0.05). Corrected for "
        "its selection, its accuracy is 98.94 %."
    )


def test_many_disagreements_name_the_other_form_of_the_test():
    assert "(one-sided mid-p McNemar test, p = " in against(answers(2), answers(40, start=50)).sentence


def test_a_worse_candidate_fails():
    verdict = against(answers(20), answers(6, start=50))
    assert verdict.status == "failed"
    assert verdict.numbers["loss"]
    assert "is worse than the champion (97.00 %)" in verdict.sentence


def test_the_same_answers_keep_the_champion():
    verdict = against(answers(4), answers(4))
    assert verdict.status == "failed"
    assert verdict.sentence == (
        "Candidate and champion make the same errors on 200 test images (98.00 %), so the champion stays."
    )


def test_equal_accuracy_with_other_errors_keeps_the_champion():
    verdict = against(answers(4), answers(4, start=100))
    assert (verdict.status, verdict.numbers["gain"], verdict.numbers["loss"]) == ("failed", False, False)
    assert "is as good as the champion" in verdict.sentence
    assert "is within chance (one-sided exact McNemar test, p = 0.637 > 0.05)" in verdict.sentence


def test_too_few_disagreements_to_tell_keep_the_champion():
    verdict = against(answers(0), answers(4))
    assert verdict.status == "failed"
    assert verdict.numbers["too_few_disagreements"]
    said = "not significant, too few disagreements (at least 5 are needed at level 0.05), so the champion stays."
    assert verdict.sentence.endswith(said)
    assert against(answers(0), answers(5)).status == "passed"


def test_with_level_one_any_gain_counts():
    assert against(answers(4), answers(5), alpha=1.0).status == "passed"
    assert against(answers(5), answers(4), alpha=1.0).status == "failed"


def test_alpha_is_shared_by_the_planned_comparisons():
    assert against(answers(0), answers(12), comparisons=200, n_comparisons=37).status == "passed"
    verdict = against(answers(0), answers(12), comparisons=365, n_comparisons=37)
    assert verdict.status == "failed"
    assert verdict.sentence.endswith(
        "not significant, too few disagreements (at least 13 are needed at level 0.000137 (37th of 365 planned "
        "comparisons on this test set)), so the champion stays."
    )
    verdict = against(answers(0), answers(13), comparisons=365, n_comparisons=37)
    assert verdict.status == "passed"
    assert verdict.sentence.endswith(
        "p = 0.000122 <= 0.000137; 37th of 365 planned comparisons on this test set). Corrected for its "
        "selection, its accuracy is 100.00 %."
    )
    assert against(answers(0), answers(13), comparisons=365, n_tests=2).status == "failed"


@LIKE_EVERY_TIME
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 500))
def test_more_planned_comparisons_never_let_more_through(lost, gained, comparisons):
    options = {"n": 400, "start": 100}
    one = against(answers(lost, n=400), answers(gained, **options), comparisons=comparisons)
    more = against(answers(lost, n=400), answers(gained, **options), comparisons=comparisons + 1)
    assert one.status == "passed" or more.status == "failed"
    assert not (one.numbers["gain"] and one.numbers["loss"])


def test_chance_promotes_in_a_year_with_probability_alpha():
    rng = np.random.default_rng(1)
    p_false = []
    for n_disagreements in (15, 60, 400):
        gained = rng.binomial(n_disagreements, 0.5, size=200_000)
        counts, n_times = np.unique(gained, return_counts=True)
        passed = [
            against(answers(n_disagreements - k, n=900), answers(k, n=900, start=450), comparisons=365).numbers["gain"]
            for k in counts.tolist()
        ]
        p_false.append(n_times[passed].sum() / 200_000)
    assert max(p_false) * 365 < 0.07  # 0.05, and what chance adds in so many draws
    assert max(p_false) > 0


def test_more_comparisons_than_planned_are_warned_about():
    verdict = against(answers(0), answers(13), comparisons=365, n_comparisons=365)
    assert against_champion.used_up(verdict) is None
    verdict = against(answers(0), answers(13), comparisons=365, n_comparisons=366)
    assert against_champion.used_up(verdict) == (
        "The comparisons planned on this test set (365) are used up; this is the 366th: a false promotion is now more "
        "likely than alpha 0.05; take new test images, or plan more comparisons (promote.gates.champion.comparisons)."
    )


@pytest.mark.parametrize(("statistic", "called"), [("brier", "Brier score"), ("log_loss", "log loss")])
def test_probabilities_show_a_gain_that_accuracy_does_not(statistic, called):
    rng = np.random.default_rng(1)
    truth = rng.beta(8, 2, size=1000)

    def model(truth):
        return Answers(truth > 0.5, log_loss=-np.log(truth), brier=2 * (1 - truth) ** 2)

    better, worse = model(np.minimum(truth + 0.01, 0.999)), model(truth)
    assert against(better, worse, comparisons=365).status == "failed"
    verdict = against(better, worse, statistic=statistic, comparisons=365)
    assert verdict.status == "passed"
    assert f"; its {called} is " in verdict.sentence
    assert "is more than chance (one-sided paired t-test, p = " in verdict.sentence


def test_a_better_log_loss_does_not_make_up_for_a_lower_accuracy():
    surer = answers(3, sure=0.9)
    assert against(surer, answers(3, sure=0.7), statistic="log_loss").status == "passed"
    verdict = against(surer, answers(2, sure=0.7), statistic="log_loss")
    assert verdict.status == "failed"
    assert verdict.sentence.endswith("), but its accuracy is lower, so the champion stays.")


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


def test_a_margin_is_relative_to_the_reference_too():
    night_after_night = [answers(60 * night, n=10_000) for night in range(4)]
    reference = night_after_night[0]
    for before, now in pairwise(night_after_night):
        assert against(now, before, margin=0.01).status == "passed", "each night loses .6 points"
    held = [against(now, night_after_night[1], margin=0.01, reference=reference) for now in night_after_night]
    assert [verdict.status for verdict in held] == ["passed", "passed", "failed", "failed"]
    assert held[3].numbers["reference_difference"] == pytest.approx(-0.018)
    assert ", from the reference -1.80 points (95 % interval -2." in held[3].sentence


def test_images_that_a_model_has_seen_are_not_compared():
    seen = np.arange(200) < 150
    verdict = against(answers(0), answers(150), seen=seen, least=50)
    assert verdict.numbers["n_images"] == 50
    assert verdict.status == "failed"
    assert "make the same errors on 50 test images" in verdict.sentence


def test_too_few_unseen_images_give_no_verdict():
    verdict = against(answers(0), answers(150), seen=np.arange(200) < 150, least=100)
    assert verdict.status == "failed"
    assert verdict.sentence == (
        "Of 200 test images only 50 were not seen by either model in training or tuning, too few for a comparison with "
        "the champion (minimum: 100): preprocess.seed was changed, or images moved between the splits when others "
        "joined the dataset; go back to the seed, add images, or register under another name "
        "(promote.registered_model)."
    )
    assert against(answers(0), answers(1), seen=np.ones(200, bool)).status == "failed"


def test_slices_follow_the_images_that_are_compared():
    part = Slice("dark", np.arange(200) < 10)
    scored = Scored(
        np.full(200, "cat"), answers(0), champion=answers(3), comparable=np.arange(200) > 4, slices=[part]
    ).compared()
    assert scored.slices[0].members.tolist() == [True] * 5 + [False] * 190


GAIN, LOSS, NEITHER = (answers(0), answers(14)), (answers(14), answers(0)), (answers(4), answers(4, start=100))


@pytest.mark.parametrize(
    ("test", "recent", "statuses"),
    [
        (GAIN, GAIN, ("passed", "passed")),
        (GAIN, NEITHER, ("passed", "passed")),
        (GAIN, LOSS, ("passed", "failed")),
        (NEITHER, GAIN, ("passed", "passed")),
        (NEITHER, NEITHER, ("failed", "passed")),
        (NEITHER, LOSS, ("failed", "failed")),
        (LOSS, GAIN, ("failed", "passed")),
        (LOSS, NEITHER, ("failed", "passed")),
        (LOSS, LOSS, ("failed", "failed")),
    ],
)
def test_test_set_and_recent_images_decide_together(test, recent, statuses):
    verdicts = against_champion.jointly(against(*test), against(*recent))
    assert tuple(verdict.status for verdict in verdicts) == statuses


def test_a_margin_must_be_kept_on_the_test_set():
    test = against(answers(30), answers(20), margin=0.005)
    recent = against(answers(0), answers(40), margin=0.005)
    assert [verdict.status for verdict in against_champion.jointly(test, recent)] == ["failed", "passed"]
    few = against(answers(0, n=50), answers(0, n=50), margin=0.01)
    passed = against(answers(0, n=5000), answers(0, n=5000), margin=0.01)
    statuses = [verdict.status for verdict in against_champion.jointly(passed, few)]
    assert statuses == ["passed", "passed"], "few recent images prove no margin, and need not"
    assert against_champion.jointly(passed, few)[1].sentence.endswith(
        "On recent images only a significant loss counts."
    )


def test_the_set_that_decided_is_named():
    test, _ = against_champion.jointly(against(*NEITHER), against(*GAIN))
    assert test.sentence.endswith(
        "The gain on the recent images decides; on the test set nothing is lost significantly."
    )
    _, recent = against_champion.jointly(against(*GAIN), against(*LOSS))
    assert recent.sentence.endswith("The loss on the recent images decides.")


def test_without_a_verdict_on_the_test_set_nothing_is_promoted():
    unseen = against(*GAIN, seen=np.ones(200, bool))
    assert against_champion.jointly(unseen, against(*GAIN))[0].status == "failed"
