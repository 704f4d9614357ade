from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from trials import MIXED, trial

from darkroom import figures_tuning
from darkroom.trial_rows import TrialRow

Drawing = Callable[[Sequence[TrialRow], Path], Path]
PICTURES: dict[str, Drawing] = {
    "history": figures_tuning.history,
    "slices": figures_tuning.slices,
    "curves": figures_tuning.curves,
    "latency": lambda rows, path: figures_tuning.pareto(rows, "latency_ms", path, chosen=1, limit=3.0),
    "size": lambda rows, path: figures_tuning.pareto(rows, "model_bytes", path),
}


def drawn(draw: Drawing, rows: Sequence[TrialRow], folder: Path) -> np.ndarray:
    path = draw(rows, folder / "picture.png")
    assert [file.name for file in folder.iterdir()] == ["picture.png"]
    return np.asarray(cv2.imread(str(path)))


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_differs_with_the_trials_and_is_the_same_for_the_same_ones(name: str, tmp_path: Path) -> None:
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
        [trial(number, 0.5, params={"depth": 2, "flip": True}, curve={0: 0.5}) for number in range(3)],
        [trial(0, float("nan"), curve={0: float("nan")})],
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
        return drawn(figures_tuning.history, rows, tmp_path)

    assert (with_baseline_of(0.5) != with_baseline_of(0.1)).any()


def test_the_trial_that_repeats_a_killed_baseline_is_the_baseline(tmp_path: Path) -> None:
    def drawn_with(is_baseline: bool) -> np.ndarray:
        rows = [trial(0, state="killed"), trial(1, 0.9), trial(2, 0.8, retry_of=0, is_baseline=is_baseline)]
        return drawn(figures_tuning.history, rows, tmp_path)

    assert drawn_with(True).shape == drawn_with(False).shape
    assert (drawn_with(True) != drawn_with(False)).any()


def test_only_the_first_panels_are_drawn_and_scores_decide_which(tmp_path: Path) -> None:
    rows = [trial(number, 0.9, params={f"p{place}": number for place in range(20)}) for number in range(3)]

    def ranked(scores: dict[str, float]) -> np.ndarray:
        return drawn(lambda rows, path: figures_tuning.slices(rows, path, scores=scores), rows, tmp_path)

    plain = drawn(figures_tuning.slices, rows, tmp_path)
    twelve = drawn(figures_tuning.slices, [trial(0, 0.9, params={f"p{n}": n for n in range(12)})], tmp_path)
    assert plain.shape == twelve.shape
    assert np.array_equal(plain, ranked({}))
    assert (plain != ranked({"p19": 1.0})).any()


def test_an_axis_is_logarithmic_over_two_decades_unless_it_is_said(tmp_path: Path) -> None:
    rows = [trial(number, 0.9, params={"x": value}) for number, value in enumerate((1e-4, 0.01, 0.02))]

    def scaled(logarithmic: list[str] | None) -> np.ndarray:
        return drawn(lambda rows, path: figures_tuning.slices(rows, path, logarithmic=logarithmic), rows, tmp_path)

    assert np.array_equal(scaled(None), scaled(["x"]))
    assert (scaled(None) != scaled([])).any()


def test_importance_is_drawn_or_said_to_be_unknown(tmp_path: Path) -> None:
    def bars(scores: dict[str, float]) -> np.ndarray:
        return drawn(lambda _rows, path: figures_tuning.importance(scores, path), [], tmp_path)

    unknown, one, three = bars({}), bars({"a": 1.0}), bars({"a": 0.6, "b": 0.4, "c": 0.0})
    assert unknown.shape == one.shape == three.shape
    assert (unknown != one).any()
    assert (one != three).any()
    assert bars({f"p{number}": 0.0 for number in range(99)}).shape == bars({str(n): n / 20 for n in range(20)}).shape
