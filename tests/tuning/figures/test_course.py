from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from darkroom.tuning.figures import course, parameters
from darkroom.tuning.rows import TrialRow
from tests.support.pictures import Drawing, drawn
from tests.support.trials import MIXED, trial

PICTURES: dict[str, Drawing] = {
    "history": course.history,
    "slices": parameters.slices,
    "curves": course.curves,
    "latency": lambda rows, path: course.pareto(rows, "latency_ms", path, chosen=1, limit=3.0),
    "size": lambda rows, path: course.pareto(rows, "model_bytes", path),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_depends_on_the_trials_alone(name: str, tmp_path: Path) -> None:
    before, again, after = (drawn(PICTURES[name], rows, tmp_path) for rows in (MIXED[:1], MIXED[:1], MIXED))
    assert before.std() > 5
    assert np.array_equal(before, again)
    assert before.shape != after.shape or (before != after).any()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [trial(number) for number in range(3)],
        [trial(0, state="running")],
        [trial(0, state="waiting", params={})],
        [trial(number, 0.5, params={"depth": 2, "flip": True}, curve={1: 0.5}) for number in range(3)],
        [trial(0, float("nan"), curve={1: float("nan")})],
        [trial(number, 0.5 + (number * 37 % 100) / 250) for number in range(300)],
    ],
    ids=["none", "all failed", "first runs", "first waits", "all equal", "not a number", "300"],
)
def test_every_picture_is_drawn_at_any_moment_of_a_search(name: str, rows: Sequence[TrialRow], tmp_path: Path) -> None:
    assert drawn(PICTURES[name], rows, tmp_path).shape[1] == 1036


@pytest.mark.parametrize("name", ["history", "slices", "latency"])
def test_a_hopeless_trial_does_not_flatten_the_others(name: str, tmp_path: Path) -> None:
    def with_one_of(accuracy: float) -> np.ndarray:
        rows = [*(trial(number, 0.9 + number / 1000) for number in range(9)), trial(9, accuracy)]
        return drawn(PICTURES[name], rows, tmp_path)

    assert np.array_equal(with_one_of(0.5), with_one_of(0.1))


def test_a_hopeless_baseline_is_shown_where_it_is(tmp_path: Path) -> None:
    def with_baseline_of(accuracy: float) -> np.ndarray:
        rows = [trial(0, accuracy), *(trial(number, 0.9 + number / 1000) for number in range(1, 9))]
        return drawn(course.history, rows, tmp_path)

    assert (with_baseline_of(0.5) != with_baseline_of(0.1)).any()


def test_a_repeat_of_a_killed_baseline_is_the_baseline(tmp_path: Path) -> None:
    def drawn_with(is_baseline: bool) -> np.ndarray:
        rows = [trial(0, state="killed"), trial(1, 0.9), trial(2, 0.8, retry_of=0, is_baseline=is_baseline)]
        return drawn(course.history, rows, tmp_path)

    assert drawn_with(True).shape == drawn_with(False).shape
    assert (drawn_with(True) != drawn_with(False)).any()
