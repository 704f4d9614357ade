import numpy as np
import pytest

from darkroom.training.answers import packed, unpacked


@pytest.mark.parametrize("n", [0, 1, 8, 1001])
def test_what_is_packed_comes_back(n: int) -> None:
    right = np.random.default_rng(n).random(n) < 0.7
    text = packed(right)
    assert unpacked(text).dtype == bool
    np.testing.assert_array_equal(unpacked(text), right)
    assert len(text) <= n / 4 + 8
