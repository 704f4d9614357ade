"""A network that is trained once per fold, on digits of which some labels are wrong."""

import numpy as np
import pytest

from darkroom.errors import ParamsError, TrainingError
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


def test_a_group_is_in_one_fold(monkeypatch):
    seen: list[list[int]] = []

    def no_training(_recipe, *, data, **_):
        numbers = [part[np.arange(len(part))].reshape(len(part), -1) for part in (data.images, data.val_images)]
        seen.extend(part[:, 0].tolist() for part in numbers)
        raise TrainingError("enough")

    monkeypatch.setattr(folds, "train_candidate", no_training)
    groups = np.arange(700) // 7
    images = np.broadcast_to(groups.astype(np.uint8)[:, None, None, None], (700, 8, 8, 1))
    with pytest.raises(TrainingError, match="enough"):
        folds.out_of_fold(
            small(epochs=1),
            images,
            digits()[1],
            groups=groups,
            classes=CLASSES,
            n_folds=2,
            device="cpu",
            say=print,
        )
    train, held_out = seen
    assert len(train) + len(held_out) == 700
    assert not {*train} & {*held_out}


def test_no_schedule_watches_the_labels_of_the_fold(monkeypatch):
    recipes = []

    def no_training(recipe, **_):
        recipes.append(recipe)
        raise TrainingError("enough")

    monkeypatch.setattr(folds, "train_candidate", no_training)
    plateau = {"name": "plateau", "metric": "val_loss", "factor": 0.5, "patience": 1}
    with pytest.raises(TrainingError, match="enough"):
        answered(made(schedule=plateau), digits()[1], np.arange(700), [])
    assert recipes[0]["schedule"]["metric"] == "train_loss"


def test_a_candidate_for_transfer_is_refused():
    with pytest.raises(ParamsError, match="a candidate for transfer is not trained in folds"):
        answered(made(architecture={**TRANSFER, "mode": "features"}), digits()[1], np.arange(700), [])
