"""What a setting `auto` becomes: choices made from facts about the data, each with its reason. Plain values only."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

EDGE_STEP = 32  # pixels: networks halve a picture up to five times
LEAST_EDGE, GREATEST_EDGE = 32, 224
LEAST_KEPT_EDGE = 16
BALANCED_ABOVE = 1.5  # images of the largest class per image of the smallest


class ImageSize(NamedTuple):
    """A chosen image size in pixels, and why."""

    height: int
    width: int
    reason: str


class Choice(NamedTuple):
    """A chosen value, and why."""

    value: str
    reason: str


def choose_image_size(sizes: Sequence[tuple[int, int]]) -> ImageSize:
    """Return the size for pictures of these sizes (height, width), at least one.

    Small pictures (edges of 16 to 224 pixels) that all have one size keep it: resizing would add nothing. Others become
    squares: the median of their shorter sides, as a multiple of 32 between 32 and 224. Most networks were designed for
    224, and the cost grows with the square of it.
    """
    n = len(sizes)
    if len(set(sizes)) == 1 and min(sizes[0]) >= LEAST_KEPT_EDGE and max(sizes[0]) <= GREATEST_EDGE:
        return ImageSize(*sizes[0], f"that of {_pictures(n, 'all ')}")
    median = statistics.median_low([min(size) for size in sizes])
    edge = (median + EDGE_STEP // 2) // EDGE_STEP * EDGE_STEP
    edge = min(max(edge, LEAST_EDGE), GREATEST_EDGE)
    return ImageSize(edge, edge, f"median shorter side {median} px of {_pictures(n)}")


def choose_color(*, n_pictures: int, colored: str | None) -> Choice:
    """Return "grey" where no picture was found to be coloured, that is to have channels that differ, else "rgb".

    Args:
        n_pictures: how many were looked at.
        colored: the name of a coloured one, quoted.
    """
    if colored is not None:
        return Choice("rgb", f"{colored} is coloured")
    return Choice("grey", f"no colour in {_pictures(n_pictures)}")


def choose_class_weights(counts: Mapping[str, int]) -> Choice:
    """Return "balanced" where the largest class has more than 1.5 times the images of the smallest, else "none".

    Args:
        counts: training images per class.
    """
    used = {name: count for name, count in counts.items() if count > 0}
    if not used:
        return Choice("none", "there is no training image")
    low, high = min(used.values()), max(used.values())
    value = "balanced" if high > BALANCED_ABOVE * low else "none"
    return Choice(value, f"classes have {class_balance(used)}")


def class_balance(counts: Mapping[str, int]) -> str:
    """Return the numbers of training images of the smallest and the largest class in words."""
    low, high = min(counts.values()), max(counts.values())
    return f"{low} training images each" if low == high else f"{low} to {high} training images"


def _pictures(n: int, which: str = "") -> str:
    return "1 picture" if n == 1 else f"{which}{n} pictures"
