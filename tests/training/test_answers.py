import numpy as np
import pytest

from darkroom.training.answers import is_less_accurate, packed, unpacked


@pytest.mark.parametrize("n", [0, 1, 8, 1001])
def test_what_is_packed_comes_back(n: int) -> None:
    right = np.random.default_rng(n).random(n) < 0.7
    text = packed(right)
    assert unpacked(text).dtype == bool
    np.testing.assert_array_equal(unpacked(text), right)
    assert len(text) <= n / 4 + 8


@pytest.mark.parametrize(
    ("lost", "won", "is_less"), [(0, 0, False), (4, 0, False), (5, 0, True), (9, 4, False), (40, 20, True)]
)
def test_a_loss_counts_if_chance_seldom_brings_it(lost: int, won: int, is_less: bool) -> None:
    before = np.arange(200) < 150
    after = before.copy()
    after[:lost], after[150 : 150 + won] = False, True
    assert is_less_accurate(after, before) is is_less
    assert not is_less_accurate(before, before)
