"""The head that is solved: which images it is fitted to, and which answers are kept for those it was not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from darkroom.training.data import Vectors
from darkroom.training.head_phase import solve_head
from darkroom.training.recipe import FEW_VALIDATION, build_head
from tests.training.test_recipe import TRANSFER, made

pytestmark = pytest.mark.heavy

N_TRAIN = 90


def vectors(n_val: int, *, wrong: bool = False) -> Vectors:
    """Features of three classes, the last tenth of the training images copies of the first; wrong: labels of val."""
    rng = np.random.default_rng(0)
    labels = np.arange(N_TRAIN + n_val) % 3
    features = rng.normal(size=(len(labels), 12)).astype(np.float32)
    features[:, :3] += 3 * np.eye(3, dtype=np.float32)[labels]
    groups = np.arange(len(labels))
    is_copy = groups[:N_TRAIN] >= N_TRAIN - 9
    groups[:N_TRAIN][is_copy] = np.arange(9)
    val_labels = (labels[N_TRAIN:] + wrong) % 3
    train = features[:N_TRAIN], labels[:N_TRAIN]
    return Vectors(*train, features[N_TRAIN:], val_labels, ["a", "b", "c"], groups[:N_TRAIN], is_copy, groups[N_TRAIN:])


def solved(data: Vectors, *, mode: str = "features", **changes: Any) -> Any:
    recipe = made(architecture={**TRANSFER, "mode": mode, "units": 0, "dropout": 0.0}, **changes)
    head = build_head(recipe, n_features=12, n_classes=3, policy="float32")
    progress, answers = solve_head(head, recipe, data)
    return head, progress, answers


def right(head: Any, data: Vectors) -> float:
    return float((head.predict(data.val_images, verbose=0).argmax(axis=1) == data.val_labels).mean())


def test_few_validation_images_are_fitted_and_folds_answer() -> None:
    data = vectors(60, wrong=True)
    head, progress, answers = solved(data)
    assert right(head, data) > right(solved(data, mode="finetune")[0], data), "that one is not fitted to them"
    assert len(answers.labels) == N_TRAIN - 9 + 60, "copies are not answered for"
    np.testing.assert_array_equal(answers.labels, [*data.labels[:-9], *data.val_labels])
    by_folds = (answers.probabilities.argmax(axis=1) == answers.labels)[-60:]
    assert progress.best_val_accuracy == progress.history[0]["val_accuracy"] == by_folds.mean() < right(head, data)


def test_nothing_is_fitted_to_an_official_validation_set() -> None:
    data = replace(vectors(60), official_val=True)
    head, progress, answers = solved(data)
    assert answers is None, "the model itself answers for it"
    wrong = replace(vectors(60, wrong=True), official_val=True)
    np.testing.assert_array_equal(head.get_weights()[0], solved(wrong)[0].get_weights()[0])
    assert progress.best_val_accuracy == pytest.approx(right(head, data))


def test_trials_of_a_fraction_are_not_fitted_to_val() -> None:
    recipe = made(architecture={**TRANSFER, "mode": "features", "units": 0, "dropout": 0.0})
    kernels = []
    for wrong in (False, True):
        head = build_head(recipe, n_features=12, n_classes=3, policy="float32")
        solve_head(head, recipe, vectors(60, wrong=wrong), fit_val=False)
        kernels.append(head.get_weights()[0])
    np.testing.assert_array_equal(*kernels)


def test_validation_images_that_judge_fine_tuning_are_not_fitted() -> None:
    data = vectors(60)
    head, progress, answers = solved(data, mode="finetune")
    np.testing.assert_array_equal(
        head.get_weights()[0], solved(vectors(60, wrong=True), mode="finetune")[0].get_weights()[0]
    )
    assert progress.best_val_accuracy == pytest.approx(right(head, data))
    assert len(answers.labels) == N_TRAIN - 9 + 60
    expected = head.predict(data.val_images, verbose=0)
    np.testing.assert_allclose(
        np.log(answers.probabilities[-60:]), expected - np.log(np.exp(expected).sum(axis=1, keepdims=True)), atol=1e-4
    )


@pytest.mark.parametrize("mode", ["features", "finetune"])
def test_an_image_alone_in_its_class_is_not_answered_for(mode: str) -> None:
    data = vectors(60)
    alone = np.append(data.labels[:-1], 3)
    data = replace(data, labels=alone, classes=["a", "b", "c", "d"], is_copy=np.zeros(N_TRAIN, bool))
    recipe = made(architecture={**TRANSFER, "mode": mode, "units": 0, "dropout": 0.0})
    head = build_head(recipe, n_features=12, n_classes=4, policy="float32")
    _, answers = solve_head(head, recipe, data)
    assert answers is not None
    assert len(answers.labels) == N_TRAIN - 1 + 60
    assert 3 not in answers.labels


@pytest.mark.parametrize(("n_val", "views"), [(FEW_VALIDATION, "one"), (60, "flip")])
def test_the_model_answers_for_enough_validation_images(n_val: int, views: str) -> None:
    data = vectors(n_val)
    head, progress, answers = solved(data, test_time_views=views)
    assert answers is None
    assert progress.best_val_accuracy == pytest.approx(right(head, data))
