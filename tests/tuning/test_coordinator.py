"""The coordinator, with real workers and a real storage; the trials cost nothing."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.compute.workers import Workers
from darkroom.errors import RegistryError, SearchError, TrainingError
from darkroom.tuning import coordinator
from darkroom.tuning.rows import TrialRow
from darkroom.tuning.space.syntax import parse
from darkroom.tuning.storage import read_rows
from darkroom.tuning.study import Draw, Search
from tests.support import tuning_tasks
from tests.support.postgres import Server
from tests.support.project import ROOT

SPACE = parse({"learning_rate": {"float": [0.0, 1.0]}})


def a_search(storage: Path | str) -> Search:
    return Search(
        "s",
        storage=str(storage),
        space=SPACE,
        plan=tuning_tasks.PLAN,
        baseline={"learning_rate": 0.5},
        about="a",
        rename="t",
    )


def tasks(folder: Path, storage: Path | str, **more: Any) -> Callable[[Draw], dict[str, Any]]:
    def task_of(drawn: Draw) -> dict[str, Any]:
        accuracy = drawn.overrides["learning_rate"]
        task = {"number": drawn.number, "study": "s", "storage": str(storage), "folder": str(folder)}
        return task | {"accuracy": accuracy} | more

    return task_of


def search(
    folder: Path, *, n_trials: int, pool: Workers | int = 2, storage: str | None = None, **settings: Any
) -> tuple[list[TrialRow], list[int]]:
    """Run trials in a pool, or in a new one of this size; return what the study then holds, and what was lost."""
    place, lost = storage or str(folder / "s.journal"), list[int]()
    task = {key: settings.pop(key) for key in ("how", "seconds") if key in settings}
    own = Workers(pool, backend="loky") if isinstance(pool, int) else contextlib.nullcontext(pool)
    with a_search(place) as study, own as workers:
        coordinator.run(
            study,
            workers,
            function=tuning_tasks.run,
            task_of=tasks(folder, place, **task),
            n_trials=n_trials,
            on_lost=lost.append,
            **settings,
        )
    return read_rows("s", place), lost


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    """Two workers for all searches that can share them: each takes a second of CPU time to load."""
    with Workers(2, backend="loky") as workers:
        yield workers


def ran(folder: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in (folder / "ran").read_text().splitlines()]


def test_exactly_as_many_trials_run_as_were_requested_each_once(tmp_path: Path, pool: Workers) -> None:
    rows, lost = search(tmp_path, pool=pool, n_trials=9)
    assert [row.state for row in rows] == ["complete"] * 9
    assert sorted(entry["trial"] for entry in ran(tmp_path)) == list(range(9))
    assert lost == []
    assert len({entry["process"] for entry in ran(tmp_path)}) == 2, "both workers had some, and stayed alive"


def test_a_later_call_resumes_where_the_earlier_one_ended(tmp_path: Path, pool: Workers) -> None:
    search(tmp_path, pool=pool, n_trials=3)
    rows, _ = search(tmp_path, pool=pool, n_trials=5)
    assert len(rows) == 5
    assert len(ran(tmp_path)) == 5
    search(tmp_path, pool=pool, n_trials=5)
    assert len(ran(tmp_path)) == 5


def test_a_trial_whose_worker_dies_is_tried_again(tmp_path: Path, pool: Workers) -> None:
    rows, lost = search(tmp_path, pool=pool, n_trials=6, how={"2": "die"})
    assert lost == [2]
    states = [row.state for row in rows]
    assert states.count("complete") == 6
    assert states[2] == "killed"
    assert "died during its task" in str(rows[2].reason)
    again = next(row for row in rows if row.retry_of == 2)
    assert again.params == rows[2].params


def test_workers_that_keep_dying_end_the_search(tmp_path: Path) -> None:
    with pytest.raises(
        SearchError,
        match=r"3 workers died in a row, the last in trial \d+: .* ended.*; if memory ran out, lower tune",
    ):
        search(tmp_path, n_trials=50, pool=1, how={"all": "die"})


def test_a_failed_trial_counts_and_others_continue(tmp_path: Path, pool: Workers) -> None:
    rows, _ = search(tmp_path, pool=pool, n_trials=4, how={"1": "fail"})
    assert [row.state for row in rows].count("failed") == 1
    assert len(rows) == 4


def test_a_study_of_failures_says_the_first_reason(tmp_path: Path, pool: Workers) -> None:
    with pytest.raises(TrainingError, match="all 3 trials failed; the first, trial 0: trial 0 has no memory"):
        search(tmp_path, pool=pool, n_trials=3, how={"all": "fail"})
    rows, _ = search(tmp_path, n_trials=3)  # in new workers: those keep the study that this one replaces
    assert [row.state for row in rows] == ["complete"] * 3


def test_a_silent_server_costs_a_trial_then_the_search(tmp_path: Path, pool: Workers) -> None:
    rows, lost = search(tmp_path, pool=pool, n_trials=4, how={"1": "no server"})
    assert lost == [1]
    assert [row.state for row in rows].count("complete") == 4
    with pytest.raises(RegistryError, match="MLflow store http://127.0.0.1:1: no answer"):
        search(tmp_path, pool=pool, n_trials=9, how={"all": "no server"})


def test_a_trial_that_dies_after_the_whole_grid_is_tried_again(tmp_path: Path) -> None:
    space = parse({"learning_rate": {"categorical": [0.25, 0.5, 0.75]}})
    plan = dataclasses.replace(tuning_tasks.PLAN, sampler="grid")
    storage, baseline = str(tmp_path / "s.journal"), {"learning_rate": 0.5}
    with (
        Search("s", storage=storage, space=space, plan=plan, baseline=baseline, about="a", rename="t") as study,
        Workers(2, backend="loky") as workers,
    ):
        task_of = tasks(tmp_path, storage, how={"0": "late death"}, seconds=0.2)
        coordinator.run(study, workers, function=tuning_tasks.run, task_of=task_of, n_trials=30)
        rows = study.rows()
    assert [row.state for row in rows] == ["killed", "complete", "complete", "complete"]
    assert rows[3].is_baseline


def test_trial_0_is_tried_again_after_the_deadline(tmp_path: Path) -> None:
    rows, _ = search(tmp_path, n_trials=1, pool=1, deadline=time.time() + 0.5, how={"0": "late death"}, seconds=0.2)
    assert [(row.state, row.is_baseline) for row in rows] == [("killed", True), ("complete", True)]


def test_after_the_deadline_no_trial_begins(tmp_path: Path, pool: Workers) -> None:
    rows, _ = search(tmp_path, pool=pool, n_trials=1000, deadline=time.time() + 1, seconds=0.1)
    assert 0 < len(rows) < 1000
    assert {row.state for row in rows} == {"complete"}


def test_a_worker_that_holds_too_much_memory_is_replaced(tmp_path: Path) -> None:
    search(tmp_path, n_trials=4, pool=1, how={"1": "grow"}, max_worker_bytes=260_000_000)
    processes = [entry["process"] for entry in ran(tmp_path)]
    assert processes[0] == processes[1] != processes[2] == processes[3]


def test_what_happens_is_told_while_it_does(tmp_path: Path, pool: Workers) -> None:
    seen = []
    search(
        tmp_path, pool=pool, n_trials=4, on_change=lambda rows: seen.append([row.state for row in rows]), seconds=0.1
    )
    assert seen[0] == ["running", "running"]
    assert seen[-1] == ["complete"] * 4


COORDINATOR = """
import sys
from pathlib import Path
from tests.tuning.test_coordinator import search
search(Path(sys.argv[1]), n_trials=int(sys.argv[2]), seconds=float(sys.argv[3]))
"""


def start(folder: Path, n_trials: int, seconds: float) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", COORDINATOR, str(folder), str(n_trials), str(seconds)]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, env=here)


def wait_for(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def running(folder: Path) -> list[int]:
    """The processes that run a trial by the storage."""
    if not (folder / "s.journal").is_file():
        return []
    try:
        rows = read_rows("s", str(folder / "s.journal"))
    except SearchError:
        return []
    return [int(row.worker.rpartition(":")[2]) for row in rows if row.state == "running" and row.worker]


@pytest.mark.heavy
@pytest.mark.slow
def test_ten_random_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    processes = [start(tmp_path, 30, 0.25)]

    def is_working() -> bool:
        return bool(running(tmp_path)) or processes[-1].poll() is not None

    for kill in range(10):
        wait_for(is_working)
        time.sleep(rng.uniform(0.0, 0.4))
        workers = running(tmp_path)
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself in this moment
            os.kill(workers[0] if workers and kill % 3 else processes[-1].pid, signal.SIGKILL)
        if kill % 3 == 0 or processes[-1].poll() is not None:
            processes[-1].wait()
            processes.append(start(tmp_path, 30, 0.25))
    processes[-1].wait(timeout=120)
    rows, _ = search(tmp_path, n_trials=30)
    states = {row.number: row.state for row in rows}
    assert list(states.values()).count("complete") == 30
    assert set(states.values()) == {"complete", "killed"}
    ended = [entry["trial"] for entry in ran(tmp_path)]
    assert all(ended.count(number) == 1 for number, state in states.items() if state == "complete")


@pytest.mark.heavy
@pytest.mark.slow
def test_sixteen_workers_in_postgres_lose_and_double_nothing(postgres: Server, tmp_path: Path) -> None:
    storage = postgres.database("tuning")
    rows, lost = search(tmp_path, n_trials=200, pool=16, storage=storage, seconds=0.01)
    assert lost == []
    assert [row.number for row in rows if row.state == "complete"] == list(range(200))
    assert sorted(entry["trial"] for entry in ran(tmp_path)) == list(range(200))
