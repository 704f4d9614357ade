"""The linear head as a convex problem: held against scikit-learn, and its folds against images that belong together."""

import math
from typing import Any

import numpy as np
import pytest

from darkroom.training.linear_head import PENALTIES, USUAL_PENALTY, assign_folds, log_softmax, solve

N_CLASSES = 3


def clouds(n_images: int, n_features: int, *, distance: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of overlapping classes, of widths from 1 to 100 and around 7; and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_images) % N_CLASSES
    features = rng.normal(size=(n_images, n_features))
    features[:, :N_CLASSES] += distance * np.eye(N_CLASSES)[labels]
    return (features * np.geomspace(1, 100, n_features) + 7).astype(np.float32), labels


def solved(features: np.ndarray, labels: np.ndarray, **changes: Any) -> Any:
    n = len(labels)
    given = {"weights": np.ones(n), "groups": np.arange(n), "judged": np.ones(n, bool), "seed": 1}
    return solve(features, np.eye(N_CLASSES)[labels], **{**given, **changes})


@pytest.mark.parametrize("n_features", [5, 200], ids=["fewer features than images", "more"])
def test_the_head_is_that_of_scikit_learn_at_its_penalty(n_features: int) -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = clouds(90, n_features)
    head = solved(features, labels)
    centred = (features - features.mean(axis=0)).astype(np.float64)
    scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
    reference = LogisticRegression(C=1 / (head.penalty * len(labels)), tol=1e-8, max_iter=5000).fit(scaled, labels)
    ours = np.exp(log_softmax(features @ head.kernel + head.bias))
    assert ours == pytest.approx(reference.predict_proba(scaled), abs=0.01)


def test_the_number_of_threads_of_a_product_changes_nothing() -> None:
    from threadpoolctl import threadpool_limits

    features, labels = clouds(600, 300)
    heads = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            heads.append(solved(features, labels))
    assert np.array_equal(heads[0].kernel, heads[1].kernel)
    assert np.array_equal(heads[0].held_out_logits, heads[1].held_out_logits)


def test_held_out_answers_are_as_good_as_those_for_new_images() -> None:
    features, labels = clouds(240, 300, distance=3.0)
    head = solved(features / np.geomspace(1, 100, 300).astype(np.float32), labels)
    new, new_labels = clouds(3000, 300, distance=3.0, seed=1)
    new /= np.geomspace(1, 100, 300).astype(np.float32)
    right = (new @ head.kernel + head.bias).argmax(axis=1) == new_labels
    held_out = head.held_out_logits.argmax(axis=1) == labels[head.held_out]
    assert len(head.held_out) == 240
    assert held_out.mean() == pytest.approx(right.mean(), abs=0.08)


def test_no_head_answers_for_an_image_whose_group_it_has_seen() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(60, 100)).astype(np.float32)
    labels = rng.integers(0, N_CLASSES, 60)  # only by heart
    twice, both = np.concatenate([features, features]), np.concatenate([labels, labels])
    groups, is_copy = np.tile(np.arange(60), 2), np.arange(120) >= 60
    apart = solved(twice, both, judged=~is_copy)
    assert (apart.held_out_logits.argmax(axis=1) == labels).mean() > 0.7, "else this test shows nothing"
    together = solved(twice, both, groups=groups, judged=~is_copy)
    np.testing.assert_array_equal(together.held_out, np.arange(60))
    assert (together.held_out_logits.argmax(axis=1) == labels).mean() < 0.6


def test_an_image_whose_class_no_other_fold_has_decides_nothing() -> None:
    features, labels = clouds(300, 10)
    n = len(labels) + 2
    features = np.concatenate([features, features[:2] + 30])
    head = solve(
        features,
        np.eye(N_CLASSES + 1)[[*labels, N_CLASSES, N_CLASSES]],
        weights=np.append(np.ones(n - 2), [75.0, 75.0]),
        groups=np.append(np.arange(n - 2), [n, n]),
        judged=np.ones(n, bool),
        seed=1,
    )
    assert head.penalty == solved(features[:-2], labels).penalty
    assert head.is_fair.tolist() == [*[True] * (n - 2), False, False]


def test_answers_about_a_class_without_weight_stay() -> None:
    features, labels = clouds(90, 10)
    head = solved(features, labels, weights=(labels > 0).astype(float))
    assert head.is_fair.all()


def test_without_any_fair_answer_the_penalty_is_the_usual_one() -> None:
    features, labels = clouds(90, 10)
    head = solved(features, labels, groups=labels)
    assert not head.is_fair.any()
    assert head.penalty == min(PENALTIES, key=lambda one: abs(math.log(one * len(labels) / USUAL_PENALTY)))


def test_images_of_no_weight_change_nothing() -> None:
    features, labels = clouds(60, 4)
    wrong = np.concatenate([labels, (labels + 1) % N_CLASSES])
    weights = np.repeat([1.0, 0.0], 60)
    both = solved(np.concatenate([features, features]), wrong, weights=weights, judged=weights > 0)
    without = solved(features, labels)
    right, expected = (
        ((features @ head.kernel + head.bias).argmax(axis=1) == labels).mean() for head in (both, without)
    )
    assert right == pytest.approx(expected, abs=0.05)


def test_single_images_and_constant_features_are_no_trouble() -> None:
    features, labels = clouds(40, 6)
    labels = np.where(np.arange(40) == 7, 2, labels % 2)
    features[:, 3:] = 0.5
    head = solved(features, labels)
    assert np.isfinite(head.kernel).all()
    assert np.isfinite(head.held_out_logits).all()
    assert abs(head.bias).max() < 1000


def test_folds_keep_groups_whole_and_spread_classes() -> None:
    labels, groups = np.repeat([0, 1], [40, 20]), np.arange(60) // 2
    folds = assign_folds(labels, groups, n_folds=5, seed=0)
    assert (folds[::2] == folds[1::2]).all()
    assert np.bincount(folds[:40]).tolist() == [8] * 5
    assert np.bincount(folds[40:]).tolist() == [4] * 5
    assert (folds != assign_folds(labels, groups, n_folds=5, seed=1)).any()
