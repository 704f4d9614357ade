"""The study and its storage: what is drawn, told, lost and read back."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from postgres import Server

from darkroom import search
from darkroom.errors import LockedError, SearchError, Stopped
from darkroom.search import Outcome, Report, Search
from darkroom.search_plan import Plan
from darkroom.space import Space, parse

SPACE = parse(
    {"learning_rate": {"float": [0.01, 1.0], "log": True}, "optimizer.name": {"categorical": ["sgd", "adam"]}}
)
BASELINE = {"learning_rate": 0.1, "optimizer.name": "sgd"}


def a_plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "sampler": "tpe",
        "pruner": "none",
        "seed": 7,
        "objectives": ("val_accuracy",),
        "limits": {},
        "epochs": 3,
        "n_startup_trials": 3,
    }
    return Plan(**{**settings, **changes})


def a_search(
    storage: str | Path, *, plan: Plan | None = None, space: Space = SPACE, about: str = "a", baseline: Any = BASELINE
) -> Search:
    return Search(
        "s",
        storage=str(storage),
        space=space,
        plan=plan or a_plan(),
        baseline=baseline,
        about=about,
        rename=f"s-{about[:8]}",
    )


def a_report(number: int, storage: str | Path, plan: Plan | None = None, *, n_epochs: int = 9) -> Report:
    return Report(number, study="s", storage=str(storage), plan=plan or a_plan(), n_epochs=n_epochs)


def complete(accuracy: float, **costs: float) -> Outcome:
    return Outcome("complete", {"val_accuracy": accuracy, **costs})


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "s.journal"


def test_trial_0_has_the_values_of_the_recipe(journal: Path) -> None:
    drawn = a_search(journal).ask()
    assert drawn is not None
    assert (drawn.number, drawn.overrides, drawn.is_baseline) == (0, BASELINE, True)


def test_what_was_told_is_read_back_by_another_process_and_in_rows(journal: Path) -> None:
    study = a_search(journal)
    for outcome in (complete(0.5), Outcome("pruned", {}), Outcome("failed", {}, reason="no memory")):
        drawn = study.ask()
        assert drawn is not None
        study.tell(drawn.number, outcome)
    study.ask()
    for rows in (study.rows(), a_search(journal).rows(), search.read_rows("s", str(journal))):
        assert [row.state for row in rows] == ["complete", "pruned", "failed", "running"]
        assert rows[0].metrics == {"val_accuracy": 0.5}
        assert rows[2].reason == "no memory"
        assert [row.is_baseline for row in rows] == [True, False, False, False]
        assert all(set(row.params) == set(SPACE) for row in rows)


def test_values_drawn_keep_the_space_and_are_given_again_by_overrides(journal: Path) -> None:
    study = a_search(journal)
    for _ in range(12):
        drawn = study.ask()
        assert drawn is not None
        assert 0.01 <= drawn.overrides["learning_rate"] <= 1.0
        assert drawn.overrides["optimizer.name"] in ("sgd", "adam")
        study.tell(drawn.number, complete(drawn.overrides["learning_rate"] / 2))
        assert study.overrides(drawn.number) == drawn.overrides


def test_a_trial_whose_worker_died_is_tried_again_once_with_the_same_values(journal: Path) -> None:
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


def test_a_kill_of_the_whole_search_does_not_use_up_the_second_try(journal: Path) -> None:
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


def test_a_study_in_which_every_trial_failed_is_begun_anew(journal: Path) -> None:
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
            with pytest.raises(LockedError, match=r"the study 's' in .* is being searched by process \d+ of "):
                a_search(journal)
            study.remember("owner", {"who": who, "at": time.time() - search.LEASE_SECONDS - 1})
            a_search(journal)
    finally:
        other.kill()
        other.wait()
    study.remember("owner", {"who": f"{socket.gethostname()}:{other.pid}:1", "at": time.time()})
    with a_search(journal) as study:
        assert study.attributes["owner"]["who"].startswith(f"{socket.gethostname()}:")
    assert study.attributes["owner"] is None


def test_what_another_process_ended_is_said(journal: Path) -> None:
    study = a_search(journal)
    study.ask()
    a_search(journal).lose_running()
    with pytest.raises(SearchError, match="does not answer as it must"):
        study.tell(0, complete(0.5))


def test_trials_that_a_killed_coordinator_left_running_are_lost_by_the_next_one(journal: Path) -> None:
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
    assert sorted(seen[1:]) == [(units, name) for units in (1, 2, 3) for name in ("adam", "sgd")]
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
    a_report(0, journal, plan).epoch(0, 0.25)
    study.tell(0, complete(0.5, latency_ms=2.0))
    assert study.rows()[0].curve == {0: 0.25}
    assert study.rows()[0].metrics == {"val_accuracy": 0.5, "latency_ms": 2.0}


def test_importance_says_which_parameter_mattered_and_nothing_where_nothing_is_known(journal: Path) -> None:
    study = a_search(journal, plan=a_plan(sampler="random"))
    assert study.importance() == {}
    for _ in range(20):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, complete(float(asked.overrides["optimizer.name"] == "adam")))
    found = study.importance()
    assert set(found) == set(SPACE)
    assert found["optimizer.name"] > 0.8


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


def test_the_worker_of_a_trial_is_known(journal: Path) -> None:
    a_search(journal).ask()
    a_report(0, journal).begin("host:1")
    assert a_search(journal).rows()[0].worker == "host:1"


def test_with_nothing_left_to_save_no_trial_is_stopped(journal: Path) -> None:
    plan = a_plan(pruner="median", sampler="random")
    study = a_search(journal, plan=plan)
    for accuracy in (0.9, 0.9, 0.9, 0.9, 0.1):
        asked = study.ask()
        assert asked is not None
        a_report(asked.number, journal, plan, n_epochs=1).epoch(0, accuracy)
        study.tell(asked.number, complete(accuracy))


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


def test_a_study_about_something_else_is_refused_with_a_new_name(journal: Path) -> None:
    a_search(journal, about="1" * 64)
    with pytest.raises(SearchError, match=r"the study 's' in .* was created with another space, .* such as s-22222222"):
        a_search(journal, about="2" * 64)


def test_half_a_line_that_a_killed_writer_left_is_cut_off(journal: Path) -> None:
    study = a_search(journal)
    study.ask()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    study.tell(0, complete(0.5))
    assert [row.state for row in a_search(journal).rows()] == ["complete"]


HOLD = """
import sys, time
from pathlib import Path
from darkroom.search import _JournalLock
lock = _JournalLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free_at_once(journal: Path) -> None:
    study = a_search(journal)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(journal)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told = threading.Thread(target=study.remember, args=("key", 1), daemon=True)
    told.start()
    holder.kill()
    holder.communicate()
    told.join(timeout=10)
    assert study.attributes["key"] == 1


def test_a_study_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"there is no study in .*none.journal; `dvc repro` with tune.trials above 0"):
        search.read_rows("s", str(tmp_path / "none.journal"))
    a_search(tmp_path / "one.journal")
    with pytest.raises(SearchError, match="there is no study 'other' in .*one.journal"):
        search.read_rows("other", str(tmp_path / "one.journal"))


@pytest.mark.parametrize("storage", ["postgresql://host:port/db", "nonsense://host/db", "grpc://host"])
def test_what_is_no_url_of_a_storage_is_said(storage: str) -> None:
    with pytest.raises(SearchError, match=f"{storage}"):
        a_search(storage)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "grpc"])
def test_a_storage_that_does_not_answer_is_said(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(
        SearchError, match=rf"the tuning storage {scheme}://u:\*\*\*@127.0.0.1:{port}/d does not answer"
    ):
        a_search(f"{scheme}://u:secret@127.0.0.1:{port}/d")


def test_a_storage_that_accepts_and_says_nothing_is_given_up_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(SearchError, match="does not answer"):
        a_search(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d")


@pytest.mark.heavy
def test_a_study_in_postgres_is_told_and_continued(postgres: Server) -> None:
    storage, plan = postgres.database("search"), a_plan(pruner="hyperband")
    with a_search(storage, plan=plan) as study:
        study.ask()
        a_report(0, storage).begin("host:1")
        a_report(0, storage).epoch(0, 0.25)
        study.tell(0, complete(0.5))
        study.ask()
    with a_search(storage, plan=plan) as continued:
        assert continued.lose_running() == [1]
        assert [row.state for row in continued.rows()] == ["complete", "killed", "waiting"]
        assert search.read_rows("s", storage)[0].curve == {0: 0.25}


def wait_for_port(port: int, server: "subprocess.Popen[bytes]") -> None:
    while True:
        assert server.poll() is None, "it has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)


@pytest.mark.heavy
def test_a_proxy_serves_a_study_of_postgres(postgres: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    serve = (
        "import sys; from optuna.storages import run_grpc_proxy_server; from darkroom.search import open_storage; "
        "run_grpc_proxy_server(open_storage(sys.argv[1], create=True), host='127.0.0.1', port=int(sys.argv[2]))"
    )
    proxy = subprocess.Popen([sys.executable, "-c", serve, postgres.database("proxy"), str(port)])
    try:
        wait_for_port(port, proxy)
        study = a_search(f"grpc://127.0.0.1:{port}")
        study.ask()
        a_report(0, f"grpc://127.0.0.1:{port}").begin("host:1")
        study.tell(0, complete(0.5))
        assert [row.state for row in search.read_rows("s", postgres.url("proxy"))] == ["complete"]
    finally:
        proxy.kill()
        proxy.wait()
