import numpy as np
import pytest

from darkroom.audit.next_labels import label_next

RNG = np.random.default_rng(0)
COPIES = RNG.integers(0, 256, (12, 16, 16, 1), dtype=np.uint8)
SURE = np.linspace(0.5, 0.94, 12)  # of the first class
PROBABILITIES = np.column_stack([SURE, 0.95 - SURE, np.full(12, 0.05)])


def test_the_least_sure_answers_come_first():
    order = RNG.permutation(12)
    margins = np.abs(PROBABILITIES[:, 0] - PROBABILITIES[:, 1])
    found = label_next(PROBABILITIES[order], COPIES[order], n=5)
    assert order[found].tolist() == np.argsort(margins)[:5].tolist()
    assert len(label_next(PROBABILITIES, COPIES, n=99)) == 12


def test_unknown_images_come_first_in_a_quarter_of_the_places():
    unknown = np.arange(12) >= 8
    found = label_next(PROBABILITIES, COPIES, n=8, unknown=unknown)
    assert found.tolist()[:2] == [8, 9]
    assert sorted(found.tolist()[2:]) == [0, 1, 2, 3, 4, 5]


def test_of_copies_one_is_chosen():
    copies = COPIES.copy()
    copies[1:4] = copies[0]
    copies[2] -= copies[2] // 64
    assert label_next(PROBABILITIES, copies, n=4).tolist() == [0, 4, 5, 6]


@pytest.mark.parametrize(("n", "expected"), [(1, [11]), (3, [11, 0, 1])])
def test_a_quarter_of_few_places_is_one(n, expected):
    assert label_next(PROBABILITIES, COPIES, n=n, unknown=np.arange(12) == 11).tolist() == expected


def test_unknown_images_fill_the_places_that_are_left():
    found = label_next(PROBABILITIES, COPIES, n=8, unknown=np.arange(12) >= 2)
    assert found.tolist() == [2, 3, 0, 1, 4, 5, 6, 7]
    assert len(label_next(PROBABILITIES, COPIES, n=12, unknown=np.ones(12, bool))) == 12
