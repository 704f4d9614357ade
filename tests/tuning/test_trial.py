"""A trial in a worker: its end, and what is left of it. Searches with real workers: tests/pipelines/test_tune.py."""

import dataclasses
import gc
import time
from pathlib import Path
from typing import Any

import pytest

from darkroom.cli import presets
from darkroom.data.arrays.features import write_none
from darkroom.errors import RegistryError
from darkroom.tracking import runs, store
from darkroom.tuning import trial
from darkroom.tuning.space.syntax import parse
from darkroom.tuning.study import Search
from tests.support.project import ROOT
from tests.support.shades import write_shades
from tests.support.trained_repository import fresh_store
from tests.support.tuning_tasks import PLAN

pytestmark = pytest.mark.heavy
RECIPE = presets.read("smoke", root=ROOT)["train"]["cnn"]


class Study:
    """A study over small images, and the tasks of its trials."""

    def __init__(self, root: Path) -> None:
        write_shades(root / "prepared", splits=["train"] * 160 + ["val"] * 40, shape=(16, 16, 1))
        write_shades(root / "augmented", splits=["train"] * 64, shape=(16, 16, 1))
        write_none(root / "features")
        self.search = Search(
            "s",
            storage=str(root / "s.journal"),
            space=parse({"learning_rate": {"float": [0.01, 1.0]}}),
            plan=PLAN,
            baseline={"learning_rate": 0.1},
            about="a",
            rename="t",
        )
        with runs.run(experiment="shades", name="tune-cnn", params={}, tags={}) as parent:
            self.task = trial.Task(
                number=0,
                name="trial-0",
                study="s",
                storage=str(root / "s.journal"),
                plan=PLAN,
                recipe={**RECIPE, "epochs": 2, "precision": "float32"},
                fraction=0.5,
                prepared=root / "prepared",
                augmented=root / "augmented",
                features=root / "features",
                device="cpu",
                measured=(),
                experiment="shades",
                parent_run=parent.id,
                tracking_uri=store.tracking_uri(),
                tags={},
                deadline=None,
            )

    def next(self, **changes: Any) -> trial.Task:
        drawn = self.search.ask()
        assert drawn is not None
        return dataclasses.replace(self.task, number=drawn.number, **changes)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    fresh_store(tmp_path, monkeypatch)
    return Study(tmp_path)


def test_a_trial_beyond_the_deadline_ends_with_its_epoch(study: Study) -> None:
    past = time.time() - 1
    ended = trial.run(study.next(deadline=past))
    assert (ended.state, ended.reason) == ("pruned", "tune.minutes were over after epoch 1")
    assert len(study.search.rows()[0].curve) == 1
    one_epoch = {**study.task.recipe, "epochs": 1}
    assert trial.run(study.next(deadline=past, recipe=one_epoch)).state == "complete"


def test_no_trial_is_judged_before_most_of_its_last_schedule() -> None:
    def epochs(n: int) -> list[int]:
        return list(trial.judged({**RECIPE, "epochs": n}))

    assert [epochs(n) for n in (1, 2, 3, 4, 8)] == [[], [], [], [3], [6, 7]]
    head = {"name": "transfer", "mode": "finetune", "units": 8, "finetune_epochs": 4}
    assert list(trial.judged({**RECIPE, "epochs": 30, "architecture": head})) == [33]


def test_a_trial_sees_only_whether_images_are_set_aside() -> None:
    promises: list[dict[str, Any]] = [
        {"sets": {"coverage": 0.9}},
        {"sets": {"coverage": 0.95}},
        {"abstain": {"error_rate": 0.01, "confidence": 0.95}},
    ]
    nothing, *seen = (trial.as_trial({**RECIPE, **promise}, epochs=2) for promise in ({}, *promises))
    assert seen[0] == seen[1] == seen[2] != nothing


def test_out_of_memory_fails_the_trial_with_that_reason(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.training import candidate

    def exhausted(*_: Any, **__: Any) -> None:
        raise MemoryError("cannot allocate 8 GiB")

    monkeypatch.setattr(candidate, "train_candidate", exhausted)
    outcome = trial.run(study.next())
    assert (outcome.state, outcome.reason) == ("failed", "out of memory: cannot allocate 8 GiB")


def test_a_store_that_does_not_answer_is_no_fault_of_the_trial(study: Study) -> None:
    with pytest.raises(RegistryError, match="does not answer"):
        trial.run(study.next(tracking_uri="http://127.0.0.1:1"))


def test_of_a_trial_that_has_ended_no_graph_stays_in_memory(study: Study) -> None:
    from tensorflow.python.framework.func_graph import FuncGraph

    def n_graphs_after_a_trial() -> int:
        assert trial.run(study.next(recipe={**study.task.recipe, "epochs": 1})).state == "complete"
        return sum(type(found) is FuncGraph for found in gc.get_objects())

    assert n_graphs_after_a_trial() == n_graphs_after_a_trial()


@pytest.mark.slow
def test_the_memory_of_a_worker_stays_flat_over_many_trials(study: Study) -> None:
    import psutil

    recipe = {**study.task.recipe, "epochs": 1}
    held = []
    for _ in range(12):
        assert trial.run(study.next(recipe=recipe)).state == "complete"
        held.append(psutil.Process().memory_info().rss)
    assert held[-1] - held[3] < 25e6, [round(size / 1e6) for size in held]
