import dataclasses
from typing import Any

import numpy as np
import pytest

from darkroom.training.answers import packed
from darkroom.tuning.choice import N_SWAPS, ChosenTrial, chance, choose, confirmed, summary
from darkroom.tuning.rows import TrialRow
from tests.support.trials import trial

ACCURACY = ["val_accuracy"]
N = 1000  # validation images, of which trial 0 gets the first 900 right


def right(*, won: int = 0, lost: int = 0, start: int = 0) -> np.ndarray:
    """Answers that are right on some images where trial 0 is wrong, and wrong on some where it is right."""
    found = np.arange(N) < 900
    found[start : start + lost] = False
    found[900 + start : 900 + start + won] = True
    return found


def answered(number: int, *, cost: float = 1.0, **changes: Any) -> TrialRow:
    """A complete trial; changes are those of right()."""
    found = right(**changes)
    metrics = {"val_accuracy": float(found.mean()), "latency_ms": cost, "model_bytes": cost}
    return trial(number, 0.0, metrics=metrics, right=packed(found))


def baseline(**changes: Any) -> TrialRow:
    return dataclasses.replace(answered(0), **changes)


def chosen(*rows: TrialRow, alpha: float = 0.05, cost: str | None = None) -> ChosenTrial:
    return choose(rows, objectives=[*ACCURACY, cost] if cost else ACCURACY, alpha=alpha)


def test_a_clearly_better_trial_is_taken() -> None:
    found = chosen(baseline(), answered(1, won=40, lost=10), answered(2, won=20, lost=10))
    assert (found.number, found.against) == (1, 0)
    assert found.reason == (
        "trial 1 has val accuracy 0.9300, +0.0300 against the values of params.yaml: it alone is right on 40 images, "
        "they alone on 10"
    )


def test_a_gain_within_chance_keeps_the_values_of_params_yaml() -> None:
    found = chosen(baseline(), answered(1, won=20, lost=12))
    assert (found.number, found.against) == (None, None)
    assert "+0.0080" in found.reason
    assert found.reason.endswith("which is within chance: the values of params.yaml are kept")


def test_a_gain_convinces_more_where_the_answers_differ_less() -> None:
    assert chosen(baseline(), answered(1, won=10, lost=0)).number == 1
    assert chosen(baseline(), answered(1, won=60, lost=50)).number is None


def test_a_smaller_but_surer_gain_is_taken() -> None:
    assert chosen(baseline(), answered(1, won=60, lost=45), answered(2, won=14)).number == 2


def test_rivals_count_by_how_much_they_differ() -> None:
    one = answered(1, won=24, lost=10)
    alike = [answered(number, won=24, lost=10) for number in range(2, 30)]
    rng = np.random.default_rng(0)
    unlike = [
        trial(number, 0.0, metrics={"val_accuracy": 0.9}, right=packed(rng.permutation(right())))
        for number in range(2, 30)
    ]
    pruned = [trial(number, state="pruned") for number in range(2, 30)]
    assert chosen(baseline(), one).number == 1
    assert chosen(baseline(), one, *alike).number == 1
    assert chosen(baseline(), one, *unlike).number is None
    assert chosen(baseline(), one, *pruned).number is None


def test_alpha_1_takes_the_most_accurate() -> None:
    rows = [baseline(), answered(1, won=30, lost=29), answered(2, won=2)]
    assert chosen(*rows).number is None
    assert chosen(*rows, alpha=1.0).number == 2
    assert chosen(baseline(), answered(1, won=9, lost=10), alpha=1.0).number is None


def test_trial_0_as_the_best_changes_nothing() -> None:
    for rival in (answered(1, lost=10), answered(1, won=10, lost=10)):
        found = chosen(baseline(), rival)
        assert found.number is None
        assert found.reason == "no trial is more accurate than the values of params.yaml (0.9000)"


def test_chance_of_one_trial_is_the_sign_test() -> None:
    won, lost = 14, 4
    difference = np.repeat([1, -1, 0], [won, lost, 500])
    exact = sum(np.bincount(np.random.default_rng(1).binomial(won + lost, 0.5, 10**6))[won:]) / 10**6
    assert chance(difference[None])[0] == pytest.approx(exact, abs=4 * (exact / N_SWAPS) ** 0.5)
    assert chance(np.zeros((2, 9), int)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("first", "why"),
    [(trial(0, None), "failed"), (baseline(feasible=False), "exceeds a limit")],
)
def test_where_trial_0_is_no_choice_the_best_is_taken(first: TrialRow, why: str) -> None:
    found = chosen(first, answered(1, lost=100), answered(2, lost=50))
    assert (found.number, found.against) == (2, None)
    assert found.reason.endswith(why)


def test_a_trial_beyond_a_limit_is_not_taken() -> None:
    beyond = dataclasses.replace(answered(1, won=90), feasible=False)
    assert chosen(baseline(), beyond).number is None
    assert "within the limits" in chosen(baseline(feasible=False), beyond).reason


@pytest.mark.parametrize("first", [[], [trial(0, None, state="killed")], [trial(0, None, state="pruned")]])
def test_where_trial_0_did_not_come_to_its_end_nothing_is_taken(first: list[TrialRow]) -> None:
    found = chosen(*first, answered(1, won=90))
    assert found.number is None
    assert "trial 0, the values of params.yaml, did not finish" in found.reason


def test_of_the_most_accurate_the_cheapest_is_taken() -> None:
    rows = [
        answered(0, cost=4.0),
        answered(1, won=15, lost=5, cost=8.0),
        answered(2, won=10, lost=5, cost=2.0),
        answered(3, lost=500, cost=0.1),
    ]
    found = chosen(*rows, cost="latency_ms")
    assert (found.number, found.against) == (2, 0)
    assert found.reason == (
        "trial 2 has val accuracy 0.9050 and latency_ms 2; the values of params.yaml have val accuracy 0.9000 and "
        "latency_ms 4"
    )


def test_at_alpha_1_a_cheaper_trial_within_chance_is_taken_too() -> None:
    rows = [answered(0, cost=4.0), answered(1, won=10, lost=5, cost=8.0), answered(2, won=9, lost=5, cost=1.0)]
    assert chosen(*rows, cost="latency_ms", alpha=1.0).number == 2


def test_a_dearer_trial_must_be_more_accurate_itself() -> None:
    rows = [
        answered(0),
        answered(1, won=40, lost=10, cost=5.0),
        answered(2, won=22, lost=15, cost=4.0),  # as accurate as trial 1, and as trial 0, as far as can be told
    ]
    assert chosen(*rows, cost="model_bytes").number == 1


@pytest.mark.parametrize(("cost", "taken"), [("latency_ms", None), ("model_bytes", 1)])
def test_a_latency_must_be_clearly_smaller_a_size_only_smaller(cost: str, taken: int | None) -> None:
    assert chosen(answered(0), answered(1, won=5, lost=5, cost=0.95), cost=cost).number == taken


def again(found: ChosenTrial, failed: dict[int, str] | None = None, **answers: tuple[int, int]) -> ChosenTrial:
    """Return the choice after full trainings; t1=(8, 3): trial 1 won 8 images against trial 0, and lost 3."""
    masks = {int(name[1:]): packed(right(won=won, lost=lost)) for name, (won, lost) in answers.items()}
    failed = failed or {}
    if 0 not in failed:
        masks[0] = packed(right())
    return confirmed(found, right=masks, failed=failed, alpha=0.05)


def test_what_a_full_training_does_not_bear_out_is_not_taken() -> None:
    found = chosen(baseline(), answered(1, won=40, lost=10))
    kept = again(found, t1=(8, 3))
    assert (kept.number, kept.against) == (1, 0)
    assert kept.reason == (
        f"{found.reason}; at full length on another seed: trial 1 0.9050, params.yaml 0.9000; trial 1 is taken"
    )
    for answers in ((3, 8), (8, 8)):
        refused = again(found, t1=answers)
        assert refused.number is None
        assert refused.reason.endswith("params.yaml 0.9000; the values of params.yaml are kept")


@pytest.mark.parametrize(("cost", "answers", "taken"), [(2.0, (3, 8), 1), (2.0, (3, 30), None), (8.0, (8, 3), 1)])
def test_a_cheaper_trial_may_lose_a_little_at_full_length(
    cost: float, answers: tuple[int, int], taken: int | None
) -> None:
    found = chosen(answered(0, cost=4.0), answered(1, won=40, lost=10, cost=cost), cost="latency_ms")
    assert found.number == 1
    assert again(found, t1=answers).number == taken


def test_a_dearer_trial_must_be_more_accurate_at_full_length_too() -> None:
    found = chosen(answered(0, cost=4.0), answered(1, won=40, lost=10, cost=8.0), cost="latency_ms")
    assert found.number == 1
    assert again(found, t1=(3, 4)).number is None


def test_the_other_better_trials_are_named_by_accuracy() -> None:
    rows = [baseline(), answered(1, won=40), answered(2, won=2), answered(3, won=50), answered(4, won=45)]
    found = chosen(*rows)
    assert (found.number, found.others) == (3, (4, 1))
    assert chosen(*rows, alpha=1.0).others == (4, 1, 2)
    costly = [answered(0, cost=4.0), answered(1, won=40, cost=2.0), answered(2, won=40, cost=3.0)]
    assert chosen(*costly, cost="latency_ms").others == ()


def test_of_several_full_trainings_the_most_accurate_is_taken() -> None:
    found = chosen(baseline(), *(answered(number, won=40 + number) for number in (1, 2, 3)))
    taken = again(found, t3=(5, 3), t1=(9, 1), t2=(9, 1))
    assert (taken.number, taken.against) == (2, 0)
    assert taken.reason == (
        f"{found.reason}; at full length on another seed: trial 3 0.9020, trial 2 0.9080, trial 1 0.9080, "
        "params.yaml 0.9000; trial 2 is taken"
    )
    assert again(found, t3=(3, 5), t2=(1, 9)).number is None


def test_failures_at_full_length_are_named_and_never_taken() -> None:
    found = chosen(baseline(), *(answered(number, won=40 + number) for number in (1, 2, 3)))
    taken = again(found, {3: "out of memory"}, t2=(8, 3), t1=(9, 3))
    assert taken.number == 1
    assert "seed: trial 3 failed (out of memory), trial 2 0.9050, trial 1 0.9060, params.yaml 0.9000; t" in taken.reason
    assert again(found, {3: "diverged", 0: "diverged"}, t2=(0, 300), t1=(0, 200)).number == 1
    refused = again(found, {3: "diverged", 2: "diverged", 1: "diverged"})
    assert refused.number is None
    assert refused.reason.endswith("params.yaml 0.9000; the values of params.yaml are kept")


def test_the_summary_counts_states_and_names_both_accuracies() -> None:
    found = summary([baseline(), answered(1, won=50), trial(2), trial(3, state="killed")])
    assert found["n_complete"] == 2
    assert (found["n_failed"], found["n_killed"], found["n_pruned"]) == (1, 1, 0)
    assert (found["best_val_accuracy"], found["baseline_val_accuracy"]) == (0.95, 0.9)
    assert "best_val_accuracy" not in summary([])
