from pathlib import Path

import numpy as np

from darkroom.tuning.figures import parameters
from tests.support.pictures import drawn
from tests.support.trials import trial


def test_only_the_first_panels_are_drawn_and_scores_decide_which(tmp_path: Path) -> None:
    rows = [trial(number, 0.9, params={f"p{place}": number for place in range(20)}) for number in range(3)]

    def ranked(scores: dict[str, float]) -> np.ndarray:
        return drawn(lambda rows, path: parameters.slices(rows, path, scores=scores), rows, tmp_path)

    plain = drawn(parameters.slices, rows, tmp_path)
    twelve = drawn(parameters.slices, [trial(0, 0.9, params={f"p{n}": n for n in range(12)})], tmp_path)
    assert plain.shape == twelve.shape
    assert np.array_equal(plain, ranked({}))
    assert (plain != ranked({"p19": 1.0})).any()


def test_an_axis_is_logarithmic_over_two_decades(tmp_path: Path) -> None:
    rows = [trial(number, 0.9, params={"x": value}) for number, value in enumerate((1e-4, 0.01, 0.02))]

    def scaled(logarithmic: list[str] | None) -> np.ndarray:
        return drawn(lambda rows, path: parameters.slices(rows, path, logarithmic=logarithmic), rows, tmp_path)

    assert np.array_equal(scaled(None), scaled(["x"]))
    assert (scaled(None) != scaled([])).any()


def test_importance_is_drawn_or_said_to_be_unknown(tmp_path: Path) -> None:
    def bars(scores: dict[str, float]) -> np.ndarray:
        return drawn(lambda _rows, path: parameters.importance(scores, path), [], tmp_path)

    unknown, one, three = bars({}), bars({"a": 1.0}), bars({"a": 0.6, "b": 0.4, "c": 0.0})
    assert unknown.shape == one.shape == three.shape
    assert (unknown != one).any()
    assert (one != three).any()
    assert bars({f"p{number}": 0.0 for number in range(99)}).shape == bars({str(n): n / 20 for n in range(20)}).shape
