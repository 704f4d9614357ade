"""A confirmation whose trainings do not end; ones that end are in tests/pipelines/test_tune.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from darkroom.compute.workers import Workers
from darkroom.tuning import confirmation
from darkroom.tuning.choice import ChosenTrial
from darkroom.tuning.rows import TrialRow
from tests.support.studies import a_search


class Mortal(Workers):
    """Workers that die in the middle of every task."""

    def submit(self, place: int, function: Any, *args: Any) -> Any:
        future = super().submit(place, function, *args)
        self.replace(place)
        return future


def test_a_training_whose_worker_dies_confirms_nothing(tmp_path: Path) -> None:
    tasks: list[Any] = [SimpleNamespace(name=f"confirm-{number}", recipe={"seed": number}) for number in (4, 0)]
    with a_search(tmp_path / "s.journal") as search:
        found = confirmation.confirm(
            ChosenTrial(4, "trial 4 is better", against=0),
            search=search,
            tasks=tasks,
            workers=lambda: Mortal(1, backend="loky"),
            minutes=1.0,
            objectives=["val_accuracy"],
            alpha=0.05,
        )
        assert confirmation.KEPT not in search.attributes
    assert found.number is None
    assert found.reason == (
        "trial 4 is better; but at full length it failed (worker 0 was stopped during its task): "
        "the values of params.yaml are kept"
    )


@pytest.mark.parametrize(("n_places", "minutes"), [(1, 12), (2, 8)])
def test_the_time_expected_grows_with_epochs_and_images(n_places: int, minutes: float) -> None:
    rows = [
        TrialRow(number, "complete", {}, {"train_seconds": seconds}, {}, True, None, None, None, None, 90.0)
        for number, seconds in ((4, 40.0), (0, 20.0))
    ]
    full, short = ({"architecture": {"name": "compact"}, "epochs": n} for n in (12, 2))
    expected = confirmation.expected_minutes(rows, full, short, fraction=0.5, n_places=n_places)
    assert expected == pytest.approx(minutes)
