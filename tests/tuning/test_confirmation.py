"""A confirmation whose trainings do not end; ones that end are in tests/pipelines/test_tune.py."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from darkroom.compute.workers import Workers
from darkroom.training.answers import packed
from darkroom.tuning import confirmation
from darkroom.tuning.choice import ChosenTrial
from darkroom.tuning.rows import TrialRow
from darkroom.tuning.study import Outcome, Search
from tests.support.studies import a_search


class Mortal(Workers):
    """Workers that die in the middle of every task."""

    def submit(self, place: int, function: Any, *args: Any) -> Any:
        future = super().submit(place, function, *args)
        self.replace(place)
        return future


class Told(Workers):
    """A worker whose trainings end as told by the number of the trial; `trained` has those that ran."""

    def __init__(self, outcomes: dict[int, Outcome], trained: list[int]) -> None:
        super().__init__(1, backend="loky")
        self._outcomes, self._trained = outcomes, trained

    def submit(self, _place: int, _function: Any, *args: Any) -> Any:
        self._trained.append(args[0].number)
        future: Future[Outcome] = Future()
        future.set_result(self._outcomes[args[0].number])
        return future


def confirm(search: Search, workers: Callable[[], Workers], *numbers: int) -> ChosenTrial:
    tasks: list[Any] = [
        SimpleNamespace(number=number, name=f"confirm-{number}", recipe={"seed": number}) for number in numbers
    ]
    return confirmation.confirm(
        ChosenTrial(numbers[0], f"trial {numbers[0]} is better", against=0, others=numbers[1:-1]),
        search=search,
        tasks=tasks,
        workers=workers,
        minutes=1.0,
        objectives=["val_accuracy"],
        alpha=0.05,
    )


def right_on(n_right: int) -> Outcome:
    return Outcome("complete", {}, right=packed(np.arange(100) < n_right))


FAILED = Outcome("failed", {}, reason="out of memory")


def test_a_training_whose_worker_dies_confirms_nothing(tmp_path: Path) -> None:
    with a_search(tmp_path / "s.journal") as search:
        found = confirm(search, lambda: Mortal(1, backend="loky"), 4, 0)
        assert confirmation.KEPT not in search.attributes
    assert found.number is None
    assert found.reason == (
        "trial 4 is better; but at full length it failed (worker 0 was stopped during its task): "
        "the values of params.yaml are kept"
    )


def test_trials_whose_training_failed_are_left_out_and_trained_again(tmp_path: Path) -> None:
    outcomes, trained = {4: FAILED, 3: right_on(80), 2: right_on(70), 0: right_on(60)}, list[int]()

    def workers() -> Workers:
        return Told(outcomes, trained)

    with a_search(tmp_path / "s.journal") as search:
        found = confirm(search, workers, 4, 3, 2, 0)
        assert (found.number, found.against) == (3, 0)
        assert "confirmed with 0.8000 against 0.6000 at full length on another seed by trial 3 (0.7000" in found.reason
        outcomes[4] = right_on(90)
        assert [confirm(search, workers, 4, 3, 2, 0).number for _ in range(2)] == [4, 4]
    assert trained == [4, 3, 2, 0] * 2


def test_a_failure_of_params_yaml_leaves_the_best_trial_that_did_not_fail(tmp_path: Path) -> None:
    with a_search(tmp_path / "s.journal") as search:
        found = confirm(search, lambda: Told({4: FAILED, 3: right_on(80), 0: FAILED}, []), 4, 3, 0)
    assert found.number == 3
    assert found.reason.endswith("at full length the values of params.yaml failed (out of memory)")


@pytest.mark.parametrize(("n_places", "minutes"), [(1, 16), (2, 12), (3, 8), (5, 8)])
def test_the_time_expected_grows_with_epochs_and_images(n_places: int, minutes: float) -> None:
    rows = [
        TrialRow(number, "complete", {}, {"train_seconds": seconds}, {}, True, None, None, None, None, 90.0)
        for number, seconds in ((4, 40.0), (3, 20.0), (0, 20.0))
    ]
    full, short = ({"architecture": {"name": "compact"}, "epochs": n} for n in (12, 2))
    expected = confirmation.expected_minutes(rows, full, short, fraction=0.5, n_places=n_places)
    assert expected == pytest.approx(minutes)
