"""A network that is trained once per fold, on digits of which some labels are wrong."""

import numpy as np
import pytest

from darkroom.errors import ParamsError
from darkroom.training import folds
from darkroom.training.recipe import Recipe
from tests.support.flipped_digits import CLASSES, digits
from tests.training.test_recipe import TRANSFER, made

pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def _keras():
    """Loaded here: what loads it with a silenced stderr would keep that of one test."""
    import keras  # noqa: F401


def small(epochs: int) -> Recipe:
    architecture = {**made()["architecture"], "filters": [16, 32]}
    return made(epochs=epochs, architecture=architecture, learning_rate=0.1)


def answered(recipe: Recipe, labels: np.ndarray, groups: np.ndarray, said: list[str]) -> np.ndarray:
    images = digits()[0]
    return folds.out_of_fold(
        recipe, images, labels, groups=groups, classes=CLASSES, n_folds=2, device="cpu", say=said.append
    )


def test_a_network_of_other_folds_sees_the_right_class():
    _, labels, flipped = digits()
    said: list[str] = []
    found = answered(small(epochs=6), flipped, np.arange(len(labels)), said)
    assert found.shape == (700, 10)
    assert found.sum(axis=1) == pytest.approx(np.ones(700), abs=1e-3)
    predicted = found.argmax(axis=1)
    assert (predicted == labels).mean() > 0.8
    assert (predicted == flipped)[labels != flipped].mean() < 0.3, "it has seen the wrong labels"
    assert said[0].startswith("fold 1 of 2: the answers agree with ")


def test_a_group_is_in_one_fold():
    _, labels, _ = digits()
    groups = np.repeat(np.arange(2), 350)
    rng = np.random.default_rng(0)
    noise = np.where(np.arange(700) < 350, rng.integers(0, 10, 700), labels)
    found = answered(small(epochs=2), noise, groups, [])
    assert (found.argmax(axis=1) == noise)[:350].mean() < 0.25


def test_a_candidate_for_transfer_is_refused():
    with pytest.raises(ParamsError, match="a candidate for transfer is not trained in folds"):
        answered(made(architecture={**TRANSFER, "mode": "features"}), digits()[1], np.arange(700), [])
