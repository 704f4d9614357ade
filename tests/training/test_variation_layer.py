from typing import Literal

import numpy as np
import pytest

from darkroom.training.variation import Variation

pytestmark = pytest.mark.heavy


def reference(picture: np.ndarray, variation: Variation, draws: np.ndarray) -> np.ndarray:
    """What the layer must do with one image, in numpy."""
    columns, edge = variation.columns, variation.shift
    height, width = picture.shape[:2]
    if "flip" in columns and draws[columns["flip"]][0]:
        picture = picture[:, ::-1]
    if "shift" in columns:
        down, right = draws[columns["shift"]]
        mode: Literal["reflect", "constant"] = "reflect" if variation.shift_fill == "reflect" else "constant"
        padded = np.pad(picture, [(edge, edge), (edge, edge), (0, 0)], mode=mode)
        picture = padded[edge - down : edge - down + height, edge - right : edge - right + width]
    picture = picture.copy()
    if "cutout" in columns:
        top, left = draws[columns["cutout"]]
        picture[top : top + variation.cutout, left : left + variation.cutout] = 0
    if "erasing" in columns:
        top, left, high, wide = draws[columns["erasing"]]
        picture[top : top + high, left : left + wide] = 0
    return picture


@pytest.mark.parametrize(
    "variation",
    [
        Variation(shift=2, flip="random", cutout=3),
        Variation(shift=5, shift_fill="reflect", erasing=0.7),
        Variation(flip="alternating"),
        Variation(erasing=1.0, cutout=2),
    ],
    ids=str,
)
def test_draws_change_pictures_as_told(variation: Variation) -> None:
    from darkroom.training.variation import draw
    from darkroom.training.variation_layer import Draws

    rng = np.random.default_rng(3)
    pictures = rng.integers(1, 256, (12, 6, 7, 2), dtype=np.uint8)
    draws = draw(variation, n_images=12, image_size=(6, 7), seed=3, epoch=1, rng=rng)
    expected = [reference(picture, variation, row) for picture, row in zip(pictures, draws, strict=True)]
    assert any((picture != varied).any() for picture, varied in zip(pictures, expected, strict=True))
    np.testing.assert_array_equal(np.asarray(Draws(variation)(pictures, draws)), np.stack(expected))


def test_without_draws_the_network_takes_its_input_alone() -> None:
    from darkroom.networks import build
    from darkroom.training.variation_layer import with_draws

    head = build.build_head(5, n_classes=3)
    assert with_draws(head, Variation(mixup=0.2)).input_shape == (None, 5)
    varied = with_draws(build.build("compact", image_shape=(8, 8, 1), n_classes=2, arguments={"filters": [2]}),
                        Variation(shift=1, flip="random"))  # fmt: skip
    assert [tuple(part.shape) for part in varied.inputs] == [(None, 8, 8, 1), (None, 3)]
