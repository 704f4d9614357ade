"""Confirmations whose trainings end as told; tests/pipelines/test_tune.py has real ones."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.errors import RegistryError, SearchError
from darkroom.training.answers import packed
from darkroom.tuning import confirmation
from darkroom.tuning.choice import ChosenTrial
from darkroom.tuning.study import Outcome, Search
from tests.support.studies import a_search
from tests.support.trials import trial

FAILED = Outcome("failed", {}, reason="out of memory")


class Told(Workers):
    """Workers whose trainings end a little later as told, by the number of the trial; a place takes one at a time.

    A list has the ends of successive trainings.
    """

    def __init__(self, n: int, outcomes: dict[int, Any], begun: list[int]) -> None:
        super().__init__(n, backend="loky")
        self._outcomes, self._begun, self._last = outcomes, begun, dict[int, Future[Outcome]]()

    def submit(self, place: int, _function: Any, *args: Any) -> Any:
        assert place not in self._last or self._last[place].done(), "two tasks at one place"
        number, future = args[0].number, Future[Outcome]()
        self._begun.append(number)
        self._last[place] = future
        found = self._outcomes[number]
        found = found.pop(0) if isinstance(found, list) else found
        end = future.set_exception if isinstance(found, Exception) else future.set_result
        Timer(0.02, end, [found]).start()
        return future


def right_on(n_right: int) -> Outcome:
    return Outcome("complete", {}, right=packed(np.arange(100) < n_right))


class Confirmation:
    """Confirmations of one study; `outcomes` says how trainings end, `begun` lists those that began."""

    def __init__(self, search: Search, **outcomes: Outcome | Exception) -> None:
        self.search, self.begun = search, list[int]()
        self.outcomes: dict[int, Any] = {int(name[1:]): outcome for name, outcome in outcomes.items()}

    def __call__(self, *numbers: int, limit: float = 100.0, n_places: int = 2) -> ChosenTrial:
        tasks: list[Any] = [
            SimpleNamespace(number=number, name=f"confirm-{number} a=1", recipe={"seed": number}) for number in numbers
        ]
        return confirmation.confirm(
            ChosenTrial(numbers[0], "it is better", against=0, others=numbers[1:-1]),
            search=self.search,
            tasks=tasks,
            minutes=dict.fromkeys(numbers, 10.0),
            limit=limit,
            workers=lambda n: Told(min(n_places, n), self.outcomes, self.begun),
            alpha=0.05,
        )


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with a_search(tmp_path / "s.journal") as opened:
        yield opened


def test_a_finished_training_is_not_repeated(search: Search) -> None:
    confirm = Confirmation(search, t4=right_on(70), t3=right_on(80), t5=right_on(90), t0=right_on(60))
    assert confirm(4, 3, 0).number == 3
    assert confirm(4, 3, 0).number == 3
    assert confirm(5, 4, 0).number == 5
    assert confirm(3, 4, 0).number == 3
    assert confirm.begun == [4, 3, 0, 5]


def test_the_study_stays_in_use_during_the_trainings(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    confirm = Confirmation(search, t4=right_on(70), t3=right_on(80), t0=right_on(60))
    monkeypatch.setattr(search, "beat", lambda: beats.append(len(confirm.begun)))
    confirm(4, 3, 0, n_places=1)
    assert beats[:3] == [0, 1, 2]


def test_a_failed_training_is_repeated_and_hides_no_other(search: Search) -> None:
    confirm = Confirmation(search, t4=FAILED, t3=right_on(80), t2=WorkerDiedError("worker 0 died"), t0=right_on(60))
    found = confirm(4, 3, 2, 0)
    assert found.number == 3
    assert found.reason == (
        "it is better; at full length on another seed: trial 4 failed (out of memory), trial 3 0.8000, "
        "trial 2 failed (worker 0 died), params.yaml 0.6000; trial 3 is taken"
    )
    confirm.outcomes |= {4: right_on(90), 2: right_on(70)}
    assert confirm(4, 3, 2, 0).number == 4
    assert confirm.begun == [4, 3, 2, 0, 2, 4, 2]


def test_a_killed_training_is_tried_once_more(search: Search) -> None:
    confirm = Confirmation(search, t4=right_on(70), t0=right_on(80))
    confirm.outcomes[0] = [WorkerDiedError("worker 1 died: SIGKILL"), right_on(80)]
    found = confirm(4, 0)
    assert confirm.begun == [4, 0, 0]
    assert found.number is None
    assert "trial 4 0.7000, params.yaml 0.8000; the values of params.yaml are kept" in found.reason


def test_kills_do_not_take_a_trial_without_comparison(search: Search) -> None:
    confirm = Confirmation(search, t4=right_on(70), t0=WorkerDiedError("worker 1 died: SIGKILL"))
    with pytest.raises(SearchError, match=r"params.yaml at full length was killed twice \(worker 1 died: SIGKILL\)"):
        confirm(4, 0)
    confirm.outcomes[0] = right_on(80)
    assert confirm(4, 0).number is None
    assert confirm.begun.count(4) == 1


def test_a_lower_limit_does_not_take_a_trial_that_was_refuted(search: Search) -> None:
    confirm = Confirmation(search, t4=right_on(60), t3=FAILED, t0=right_on(80))
    assert confirm(4, 3, 0).number is None
    begun = list(confirm.begun)
    found = confirm(4, 3, 0, limit=5.0)
    assert found.number is None
    assert "the values of params.yaml are kept" in found.reason
    assert confirm.begun == begun


def test_other_errors_stop_it_and_what_had_finished_stays(search: Search) -> None:
    confirm = Confirmation(search, t4=right_on(90), t3=RegistryError("no answer"), t0=right_on(60))
    with pytest.raises(RegistryError):
        confirm(4, 3, 0, n_places=1)
    confirm.outcomes[3] = right_on(80)
    assert confirm(4, 3, 0).number == 4
    assert confirm.begun == [4, 3, 3, 0]


@pytest.mark.parametrize(
    ("n_places", "limit", "begun"),
    [(2, 20.0, [4, 3, 2, 0]), (2, 19.0, [4, 0]), (2, 10.0, [4, 0]), (1, 30.0, [4, 3, 0]), (1, 20.0, [4, 0])],
)
def test_the_last_trials_are_left_out_if_they_take_too_long(
    n_places: int, limit: float, begun: list[int], search: Search
) -> None:
    """Of trainings of 10 minutes at two places, 3 take as long as 4."""
    confirm = Confirmation(search, **{f"t{number}": right_on(60 + number) for number in range(5)})
    for _ in range(2):  # a second call trains no more
        assert confirm(4, 3, 2, 0, limit=limit, n_places=n_places).number == 4
        assert confirm.begun == begun


def test_if_one_training_takes_too_long_nothing_is_confirmed(search: Search) -> None:
    confirm = Confirmation(search)
    found = confirm(4, 3, 0, limit=9.5)
    assert (found.number, found.others) == (4, (3,))
    assert found.reason == ("it is better; not confirmed: that takes about 10.0 minutes, more than tune.confirm (9.5)")
    assert confirm.begun == []


@pytest.mark.parametrize(("n_places", "minutes"), [(1, 80.0), (2, 40.0), (3, 40.0), (5, 40.0)])
def test_a_training_starts_at_the_first_free_place(n_places: int, minutes: float) -> None:
    assert confirmation.makespan([40.0, 20.0, 20.0], n_places) == minutes


def test_the_three_best_trials_with_different_values_contend() -> None:
    rows = [trial(number, 0.9) for number in range(6)]
    rows[3] = trial(3, 0.9, params=rows[4].params)
    found = confirmation.contenders(ChosenTrial(4, "it is better", against=0, others=(3, 2, 5, 1)), rows)
    assert found == [4, 2, 5, 0]


def test_the_minutes_of_a_training_follow_epochs_and_images() -> None:
    row = trial(4, 0.9, metrics={"val_accuracy": 0.9, "train_seconds": 30.0})
    full, short = ({"architecture": {"name": "compact"}, "epochs": n} for n in (12, 2))
    assert confirmation.full_minutes(row, full=full, short=short, fraction=0.5) == pytest.approx(6)
