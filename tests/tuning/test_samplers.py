"""What every sampler draws and learns, and whom the pruner stops."""

import math
from pathlib import Path

import pytest

from darkroom.errors import Stopped
from darkroom.tuning.space.syntax import parse
from darkroom.tuning.study import Outcome
from tests.support.studies import a_plan, a_report, a_search, complete


def test_the_same_seed_draws_the_same_trials(tmp_path: Path) -> None:
    drawn = []
    for name in ("a", "b"):
        study = a_search(tmp_path / name)
        for _ in range(12):
            asked = study.ask()
            assert asked is not None
            drawn.append(asked.overrides)
            study.tell(asked.number, complete(asked.overrides["learning_rate"]))
    assert drawn[:12] == drawn[12:]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cma-es", "qmc"])
def test_every_sampler_draws_from_the_space(sampler: str, journal: Path) -> None:
    study = a_search(journal, plan=a_plan(sampler=sampler))
    for _ in range(14):  # TPE begins after 10
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, complete(asked.overrides["learning_rate"] / 2))
    rates = [row.params["learning_rate"] for row in study.rows()]
    assert len(set(rates)) == 14
    assert all(0.01 <= rate <= 1.0 for rate in rates)


def test_a_trial_below_the_median_is_stopped_but_never_trial_0(journal: Path) -> None:
    plan = a_plan(pruner="median", sampler="random")
    study = a_search(journal, plan=plan)
    stopped = []
    for accuracy in (0.0, *[0.9] * 5, *[0.1] * 5):
        asked = study.ask()
        assert asked is not None
        report = a_report(asked.number, journal, plan, judged=range(6, 9))
        try:
            for epoch in range(1, 10):
                report.epoch(epoch, accuracy + 0.001 * epoch)
        except Stopped as stop:
            stopped.append((asked.number, str(stop)))
            study.tell(asked.number, Outcome("pruned", {}, reason=str(stop)))
        else:
            study.tell(asked.number, complete(accuracy + 0.008))
    assert stopped == [(number, "pruned after epoch 6 at val accuracy 0.1060") for number in range(6, 11)]
    assert study.rows()[6].reason == stopped[0][1]


def test_trials_that_failed_teach_the_sampler_to_stay_away(journal: Path) -> None:
    space = parse({"learning_rate": {"float": [0.001, 1000.0], "log": True}})
    n_startup = 5
    study = a_search(journal, space=space, baseline={"learning_rate": 0.01}, plan=a_plan(n_startup_trials=n_startup))
    diverged = []
    for _ in range(30):
        asked = study.ask()
        assert asked is not None
        rate = asked.overrides["learning_rate"]
        diverged.append(rate > 0.5)
        outcome = complete(0.9 - 0.05 * (math.log10(rate) + 1) ** 2)
        study.tell(asked.number, Outcome("failed", {}, reason="nan") if diverged[-1] else outcome)
    assert any(diverged[:n_startup])
    assert sum(diverged) <= 12, "of 30; 24 where failed trials are forgotten"
    states = [row.state for row in study.rows()]
    assert states == ["failed" if failed else "complete" for failed in diverged]


def test_a_failed_trial_of_two_objectives_is_the_worst_in_both(journal: Path) -> None:
    study = a_search(journal, plan=a_plan(objectives=("val_accuracy", "latency_ms")))
    for number in range(12):
        asked = study.ask()
        assert asked is not None
        failed = Outcome("failed", {}, reason="no memory")
        study.tell(asked.number, complete(0.5, latency_ms=2.0) if number % 2 else failed)
    assert study._study.trials[0].values == [0.0, math.inf]
    assert [row.state for row in study.rows()] == ["failed", "complete"] * 6
