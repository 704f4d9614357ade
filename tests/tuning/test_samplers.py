"""What every sampler draws, and whom every pruner stops."""

from pathlib import Path

import pytest

from darkroom.errors import Stopped
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


@pytest.mark.parametrize("pruner", ["hyperband", "median", "wilcoxon"])
def test_a_hopeless_trial_is_stopped_and_trial_0_never_is(pruner: str, journal: Path) -> None:
    plan = a_plan(pruner=pruner, sampler="random", epochs=9)
    study = a_search(journal, plan=plan)
    stopped = []
    for accuracy in (0.0, *[0.9] * 10, *[0.1] * 10):
        asked = study.ask()
        assert asked is not None
        report = a_report(asked.number, journal, plan)
        try:
            for epoch in range(9):
                report.epoch(epoch, accuracy + 0.001 * epoch)
        except Stopped as stop:
            stopped.append((asked.number, accuracy, str(stop)))
            study.tell(asked.number, Outcome("pruned", {}))
        else:
            study.tell(asked.number, complete(accuracy + 0.008))
    assert stopped
    assert all(number > 0 for number, _, _ in stopped)
    assert any(accuracy == 0.1 for _, accuracy, _ in stopped)
    assert "pruned after epoch" in stopped[0][2]


def test_hyperband_stops_after_the_first_of_three_epochs(journal: Path) -> None:
    plan = a_plan(pruner="hyperband", sampler="random", epochs=3)
    study = a_search(journal, plan=plan)
    stopped = []
    for accuracy in (0.9, *[0.8, 0.1] * 15):
        asked = study.ask()
        assert asked is not None
        report = a_report(asked.number, journal, plan, n_epochs=3)
        try:
            for epoch in range(3):
                report.epoch(epoch, accuracy)
        except Stopped:
            stopped.append(epoch)
            study.tell(asked.number, Outcome("pruned", {}))
        else:
            study.tell(asked.number, complete(accuracy))
    assert 0 in stopped
