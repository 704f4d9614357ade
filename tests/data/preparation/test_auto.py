"""What `auto` becomes, from plain facts about the data."""

import pytest

from darkroom.data.preparation.auto import choose_color, choose_image_size
from darkroom.training.class_weights import choose_class_weights


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (96, 64), (16, 224)])
def test_small_pictures_of_one_size_keep_it(size: tuple[int, int]) -> None:
    assert choose_image_size([size] * 200) == (*size, "that of 200 images")


@pytest.mark.parametrize(
    ("sizes", "edge"),
    [
        ([(172, 300), (100, 90), (400, 500)], 160),
        ([(176, 300)], 192),  # halfway goes up
        ([(8, 8)] * 5, 32),  # too small for a network
        ([(30, 40), (40, 30)], 32),
        ([(3000, 4000)] * 5, 224),  # one size, but a big one
        ([(225, 225)] * 5, 224),
        ([(20, 500), (21, 500)], 32),
    ],
)
def test_other_pictures_become_squares_of_the_median_side(sizes: list[tuple[int, int]], edge: int) -> None:
    chosen = choose_image_size(sizes)
    assert chosen[:2] == (edge, edge)
    assert chosen.reason.startswith("median shorter side ")


def test_the_reason_gives_the_median_and_the_number_of_pictures() -> None:
    assert choose_image_size([(172, 300), (90, 100), (400, 500)]).reason == "median shorter side 172 px of 3 images"
    assert choose_image_size([(172, 300)]).reason == "median shorter side 172 px of 1 image"


def test_one_coloured_picture_is_enough_for_rgb() -> None:
    assert choose_color(n_pictures=9, colored="'cat/1.png'") == ("rgb", "'cat/1.png' is coloured")
    assert choose_color(n_pictures=9, colored=None) == ("grey", "no colour in 9 images")


@pytest.mark.parametrize(
    ("counts", "value", "reason"),
    [
        ({"cat": 150, "dog": 100}, "none", "classes have 100 to 150 training images"),
        ({"cat": 151, "dog": 100}, "balanced", "classes have 100 to 151 training images"),
        ({"cat": 7, "dog": 7}, "none", "classes have 7 training images each"),
        ({"cat": 7, "dog": 7, "gone": 0}, "none", "classes have 7 training images each"),
        ({}, "none", "there are no training images"),
    ],
)
def test_classes_that_differ_by_more_than_half_are_weighted(counts: dict[str, int], value: str, reason: str) -> None:
    assert choose_class_weights(counts) == (value, reason)
