"""The study: what is drawn, told, lost and read back."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from darkroom.errors import LockedError, SearchError
from darkroom.tuning.space.syntax import parse
from darkroom.tuning.storage import read_rows
from darkroom.tuning.study import LEASE_SECONDS, Outcome
from tests.support.studies import BASELINE, SPACE, a_plan, a_report, a_search, complete


def test_trial_0_has_the_values_of_the_recipe(journal: Path) -> None:
    drawn = a_search(journal).ask()
    assert drawn is not None
    assert (drawn.number, drawn.overrides, drawn.is_baseline) == (0, BASELINE, True)


def test_what_was_told_is_read_back_by_another_process(journal: Path) -> None:
    study = a_search(journal)
    for outcome in (complete(0.5), Outcome("pruned", {}, reason="slow"), Outcome("failed", {}, reason="no memory")):
        drawn = study.ask()
        assert drawn is not None
        study.tell(drawn.number, outcome)
    study.ask()
    for rows in (study.rows(), a_search(journal).rows(), read_rows("s", str(journal))):
        assert [row.state for row in rows] == ["complete", "pruned", "failed", "running"]
        assert rows[0].metrics == {"val_accuracy": 0.5}
        assert [row.reason for row in rows] == [None, "slow", "no memory", None]
        assert [row.is_baseline for row in rows] == [True, False, False, False]
        assert all(set(row.params) == set(SPACE) for row in rows)


def test_values_drawn_keep_the_space(journal: Path) -> None:
    study = a_search(journal)
    for _ in range(12):
        drawn = study.ask()
        assert drawn is not None
        assert 0.01 <= drawn.overrides["learning_rate"] <= 1.0
        assert drawn.overrides["optimizer.name"] in ("sgd", "adam")
        study.tell(drawn.number, complete(drawn.overrides["learning_rate"] / 2))
        assert study.overrides(drawn.number) == drawn.overrides


def test_a_trial_of_a_dead_worker_is_tried_again_once(journal: Path) -> None:
    study = a_search(journal)
    first, second = study.ask(), study.ask()
    assert first is not None
    assert second is not None
    study.lose(second.number, "out of memory", is_own_doing=True)
    again = study.ask()
    assert again is not None
    assert again.overrides == second.overrides
    study.lose(again.number, "out of memory", is_own_doing=True)
    assert [(row.state, row.reason) for row in study.rows()] == [
        ("running", None),
        ("killed", "out of memory"),
        ("killed", "out of memory"),
    ]
    assert [row.retry_of for row in study.rows()] == [None, None, second.number]
    assert [trial.values for trial in study._study.trials] == [None, None, [0.0]], "the sampler is to stay away"


def test_a_kill_of_the_search_does_not_use_up_the_second_try(journal: Path) -> None:
    study = a_search(journal)
    study.ask()
    number = 1
    for is_own_doing in (False, True, False):
        drawn = study.ask()
        assert drawn is not None
        assert drawn.number == number
        study.lose(number, "killed", is_own_doing=is_own_doing)
        number += 1
    assert study.rows()[-1].state == "waiting"


def test_trial_0_is_tried_again_however_often_it_is_lost(journal: Path) -> None:
    study = a_search(journal)
    for number in range(4):
        again = study.ask()
        assert again is not None
        assert (again.number, again.overrides, again.is_baseline) == (number, BASELINE, True)
        study.lose(number, "killed", is_own_doing=True)


def test_a_study_in_which_every_trial_failed_is_started_again(journal: Path) -> None:
    study = a_search(journal)
    for number in range(3):
        study.ask()
        study.tell(number, Outcome("failed", {}, reason="no memory"))
    study = a_search(journal)
    assert [row.state for row in study.rows()] == ["waiting"]
    drawn = study.ask()
    assert drawn is not None
    assert drawn.is_baseline


def test_a_study_is_searched_by_one_living_process_at_a_time(journal: Path) -> None:
    study = a_search(journal)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        for who in (f"{socket.gethostname()}:{other.pid}:1", "elsewhere:1:1"):
            study.remember("owner", {"who": who, "at": time.time()})
            with pytest.raises(LockedError, match=r"the study 's' in .* is in use by process \d+ on "):
                a_search(journal)
            study.remember("owner", {"who": who, "at": time.time() - LEASE_SECONDS - 1})
            a_search(journal)
    finally:
        other.kill()
        other.wait()
    study.remember("owner", {"who": f"{socket.gethostname()}:{other.pid}:1", "at": time.time()})
    with a_search(journal) as study:
        assert study.attributes["owner"]["who"].startswith(f"{socket.gethostname()}:")
    assert study.attributes["owner"] is None


def test_what_another_process_ended_is_reported(journal: Path) -> None:
    study = a_search(journal)
    study.ask()
    a_search(journal).lose_running()
    with pytest.raises(SearchError, match="does not answer correctly"):
        study.tell(0, complete(0.5))


def test_trials_left_running_by_a_kill_are_lost_by_the_next(journal: Path) -> None:
    killed = a_search(journal)
    for accuracy in (0.5, None, None):
        drawn = killed.ask()
        assert drawn is not None
        if accuracy:
            killed.tell(drawn.number, complete(accuracy))
    study = a_search(journal)
    assert study.lose_running() == [1, 2]
    assert study.lose_running() == []
    assert [row.state for row in study.rows()] == ["complete", "killed", "killed", "waiting", "waiting"]
    again = [study.ask(), study.ask()]
    assert [drawn.overrides for drawn in again if drawn] == [killed.overrides(1), killed.overrides(2)]


def test_a_trial_half_lost_by_a_kill_is_tried_again_only_once(journal: Path) -> None:
    study = a_search(journal)
    study.ask()
    study._study.enqueue_trial(BASELINE, user_attrs={"retry_of": 0, "baseline": True})  # killed after this
    assert a_search(journal).lose_running() == [0]
    assert [row.retry_of for row in study.rows()] == [None, 0]


def test_a_continued_study_does_not_draw_the_same_trials_again(journal: Path) -> None:
    drawn: list[float] = []
    for _ in range(2):
        study = a_search(journal, plan=a_plan(sampler="random"))
        for _ in range(3):
            asked = study.ask()
            assert asked is not None
            drawn.append(asked.overrides["learning_rate"])
            study.tell(asked.number, complete(0.5))
    assert len(set(drawn)) == 6


def test_a_grid_is_drawn_point_by_point_and_then_ends(journal: Path) -> None:
    space = parse({"units": {"int": [1, 3]}, "optimizer.name": {"categorical": ["sgd", "adam"]}})
    seen = []
    for _ in range(2):  # the second one goes on
        study = a_search(
            journal, space=space, plan=a_plan(sampler="grid"), baseline={"units": 2, "optimizer.name": "sgd"}
        )
        for _ in range(4):
            if asked := study.ask():
                seen.append(tuple(asked.overrides.values()))
                study.tell(asked.number, complete(0.5))
    assert seen[0] == (2, "sgd")
    assert sorted(seen) == [(units, name) for units in (1, 2, 3) for name in ("adam", "sgd")]
    assert study.ask() is None


def test_what_a_choice_does_not_have_is_not_drawn(journal: Path) -> None:
    networks = [{"name": "a", "depth": {"int": [1, 3]}}, {"name": "b", "width": {"float": [0.5, 1.0]}}]
    space = parse({"architecture": {"categorical": networks}})
    baseline = {"architecture": "a", "architecture[a].depth": 1}
    study = a_search(journal, space=space, baseline=baseline)
    for _ in range(15):
        asked = study.ask()
        assert asked is not None
        network = asked.overrides["architecture"]
        assert set(network) == ({"name", "depth"} if network["name"] == "a" else {"name", "width"})
        study.tell(asked.number, complete(0.5 + 0.01 * asked.number))
    assert {len(row.params) for row in study.rows()} == {2}


def test_a_trial_beyond_a_limit_is_not_feasible(journal: Path) -> None:
    study = a_search(journal, plan=a_plan(limits={"latency_ms": 2.0}))
    for latency in (1.0, 3.0):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, complete(0.5, latency_ms=latency))
    assert [row.feasible for row in study.rows()] == [True, False]


def test_two_objectives_are_kept_with_their_curves(journal: Path) -> None:
    plan = a_plan(objectives=("val_accuracy", "latency_ms"))
    study = a_search(journal, plan=plan)
    study.ask()
    a_report(0, journal, plan).epoch(1, 0.25)
    study.tell(0, complete(0.5, latency_ms=2.0))
    assert study.rows()[0].curve == {1: 0.25}
    assert study.rows()[0].metrics == {"val_accuracy": 0.5, "latency_ms": 2.0}


def test_importance_says_which_parameter_mattered(journal: Path) -> None:
    study = a_search(journal, plan=a_plan(sampler="random"))
    assert study.importance() == {}
    for _ in range(20):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, complete(float(asked.overrides["optimizer.name"] == "adam")))
    found = study.importance()
    assert set(found) == set(SPACE)
    assert found["optimizer.name"] > 0.8


def test_the_worker_of_a_trial_is_known(journal: Path) -> None:
    a_search(journal).ask()
    a_report(0, journal).begin("host:1")
    assert a_search(journal).rows()[0].worker == "host:1"


def test_a_study_about_something_else_is_refused_with_a_new_name(journal: Path) -> None:
    a_search(journal, about="1" * 64)
    with pytest.raises(
        SearchError, match=r"the study 's' in .* was created with a different space, .* such as s-22222222"
    ):
        a_search(journal, about="2" * 64)
