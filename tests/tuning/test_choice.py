import dataclasses

import pytest

from darkroom.tuning.choice import choose, summary
from darkroom.tuning.rows import TrialRow
from tests.support.trials import trial

ACCURACY = ["val_accuracy"]


def baseline(accuracy: float | None = 0.9, **changes: object) -> TrialRow:
    return dataclasses.replace(trial(0, accuracy), is_baseline=True, **changes)  # type: ignore[arg-type]


def test_a_clearly_better_trial_is_taken() -> None:
    chosen = choose([baseline(), trial(1, 0.95), trial(2, 0.93)], objectives=ACCURACY, n_val=5000, alpha=0.05)
    assert chosen.number == 1
    assert chosen.reason.startswith(
        "trial 1 has val accuracy 0.9500, +0.0500 against the values of params.yaml; the noise"
    )


def test_a_gain_within_chance_keeps_the_values_of_params_yaml() -> None:
    chosen = choose([baseline(), trial(1, 0.91)], objectives=ACCURACY, n_val=500, alpha=0.05)
    assert chosen.number is None
    assert "+0.0100" in chosen.reason
    assert chosen.reason.endswith("the values of params.yaml are kept")


def test_the_same_gain_is_less_convincing_as_the_best_of_many() -> None:
    few = [baseline(), trial(1, 0.92)]
    many = [*few, *(trial(number, 0.9) for number in range(2, 40))]
    pruned = [*few, *(trial(number, state="pruned") for number in range(2, 40))]
    assert choose(few, objectives=ACCURACY, n_val=2000, alpha=0.05).number == 1
    assert choose(many, objectives=ACCURACY, n_val=2000, alpha=0.05).number is None
    assert choose(pruned, objectives=ACCURACY, n_val=2000, alpha=0.05).number is None


def test_trial_0_as_the_best_changes_nothing() -> None:
    chosen = choose([baseline(0.95), trial(1, 0.9)], objectives=ACCURACY, n_val=5000, alpha=0.05)
    assert chosen.number is None
    assert chosen.reason == "no trial is more accurate than the values of params.yaml (0.9500)"


def test_two_flawless_trials_do_not_differ_by_certainty() -> None:
    chosen = choose([baseline(0.99), trial(1, 1.0)], objectives=ACCURACY, n_val=100, alpha=0.05)
    assert chosen.number is None


@pytest.mark.parametrize(
    ("first", "why"),
    [(baseline(None), "failed"), (baseline(0.99, feasible=False), "exceeds a limit")],
)
def test_where_trial_0_is_no_choice_the_best_is_taken(first: TrialRow, why: str) -> None:
    chosen = choose([first, trial(1, 0.5), trial(2, 0.6)], objectives=ACCURACY, n_val=100, alpha=0.05)
    assert chosen.number == 2
    assert chosen.reason.endswith(why)


def test_a_trial_beyond_a_limit_is_not_taken() -> None:
    rows = [baseline(), trial(1, 0.99, feasible=False)]
    assert choose(rows, objectives=ACCURACY, n_val=5000, alpha=0.05).number is None
    beyond = [baseline(feasible=False), rows[1]]
    assert "within the limits" in choose(beyond, objectives=ACCURACY, n_val=5000, alpha=0.05).reason


@pytest.mark.parametrize("first", [[], [baseline(None, state="killed")], [baseline(None, state="pruned")]])
def test_where_trial_0_did_not_come_to_its_end_nothing_is_taken(first: list[TrialRow]) -> None:
    chosen = choose([*first, trial(1, 0.99)], objectives=ACCURACY, n_val=5000, alpha=0.05)
    assert chosen.number is None
    assert "trial 0, the values of params.yaml, did not finish" in chosen.reason


def test_of_the_most_accurate_the_cheapest_is_taken() -> None:
    rows = [
        baseline(0.95, metrics={"val_accuracy": 0.95, "latency_ms": 4.0}),
        trial(1, 0.96, metrics={"val_accuracy": 0.96, "latency_ms": 8.0}),
        trial(2, 0.955, metrics={"val_accuracy": 0.955, "latency_ms": 2.0}),
        trial(3, 0.5, metrics={"val_accuracy": 0.5, "latency_ms": 0.1}),
    ]
    chosen = choose(rows, objectives=["val_accuracy", "latency_ms"], n_val=500, alpha=0.05)
    assert chosen.number == 2
    assert chosen.reason == (
        "trial 2 has val accuracy 0.9550 and latency_ms 2; the values of params.yaml have val accuracy 0.9500 and "
        "latency_ms 4"
    )


def test_a_dearer_trial_must_be_more_accurate_itself() -> None:
    rows = [
        baseline(0.90, metrics={"val_accuracy": 0.90, "model_bytes": 1.0}),
        trial(1, 0.93, metrics={"val_accuracy": 0.93, "model_bytes": 5.0}),
        trial(2, 0.915, metrics={"val_accuracy": 0.915, "model_bytes": 4.0}),
    ]
    assert choose(rows, objectives=["val_accuracy", "model_bytes"], n_val=1000, alpha=0.05).number == 1


@pytest.mark.parametrize(("cost", "cheaper", "taken"), [("latency_ms", 0.95, None), ("model_bytes", 0.95, 1)])
def test_a_latency_must_be_clearly_smaller_a_size_only_smaller(cost: str, cheaper: float, taken: int | None) -> None:
    rows = [
        baseline(metrics={"val_accuracy": 0.9, cost: 1.0}),
        trial(1, 0.9, metrics={"val_accuracy": 0.9, cost: cheaper}),
    ]
    assert choose(rows, objectives=["val_accuracy", cost], n_val=500, alpha=0.05).number == taken


def test_the_summary_counts_states_and_names_both_accuracies() -> None:
    found = summary([baseline(), trial(1, 0.95), trial(2), trial(3, state="killed")])
    assert found["n_complete"] == 2
    assert (found["n_failed"], found["n_killed"], found["n_pruned"]) == (1, 1, 0)
    assert (found["best_val_accuracy"], found["baseline_val_accuracy"]) == (0.95, 0.9)
    assert "best_val_accuracy" not in summary([])
