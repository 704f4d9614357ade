"""The scale of what is familiar: false alarms come as rarely as stated."""

import numpy as np
import pytest

from darkroom.deployable.scores import familiarities
from darkroom.training.familiarity import SCALE_MARKS, scale_of
from darkroom.training.promises import unknown


@pytest.mark.parametrize(("n_images", "rate"), [(99, 0.05), (500, 0.01), (5000, 0.001)])
def test_false_alarms_come_as_rarely_as_stated(n_images: int, rate: float) -> None:
    rng = np.random.default_rng(0)
    alarms = [
        (familiarities(rng.gamma(3, size=2000), scale_of(rng.gamma(3, size=n_images))) < rate).mean()
        for _ in range(300)
    ]
    assert 0.5 * rate < np.mean(alarms) < 1.1 * rate, "within the chance of 300 draws"


def test_the_share_is_that_of_images_at_least_as_strange() -> None:
    held_out = np.array([1.0, 2.0, 3.0, 4.0])
    scale = scale_of(held_out)
    found = familiarities(np.array([0.5, 1.5, 3.0, 3.5, 99.0]), scale)
    np.testing.assert_allclose(found, [1, 0.8, 0.6, 0.4, 0.2])
    many = scale_of(np.arange(100_000.0))
    assert len(many["share"]) <= SCALE_MARKS
    assert many["strangeness"] == sorted(many["strangeness"])
    assert min(many["share"]) == pytest.approx(1e-5, rel=0.01)


def test_too_few_images_find_nothing_unknown_and_say_so() -> None:
    scale = scale_of(np.arange(200.0))
    said = unknown(0.01, scale=scale, n_images=200)
    assert said.metadata == {"unknown_below": 0.01, "familiarity": scale}
    assert (
        said.sentence
        == "finds images unknown that are stranger than all but 1% of known ones, by 200 that were held out"
    )
    few = unknown(0.001, scale=scale, n_images=200)
    assert "finds no image unknown: 200 images that were held out cannot show" in few.sentence
    assert "it takes 1,000 at least" in few.sentence
    assert not (familiarities(np.array([1e9]), scale) < 0.001).any()
