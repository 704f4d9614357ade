import numpy as np
import pytest

from darkroom.audit import suspects
from darkroom.audit.pixels import waves
from darkroom.training.linear_head import assign_folds, log_softmax, out_of_fold
from tests.support.flipped_digits import N_FLIPPED, digits


@pytest.fixture(scope="module")
def judged():
    images, labels, flipped = digits()
    vectors, groups = waves(images, seed=0), np.arange(len(labels))
    probabilities = np.exp(log_softmax(out_of_fold(vectors, flipped, n_classes=10, groups=groups, seed=7)))
    shares = suspects.votes(suspects.nearest(vectors, groups), flipped, n_classes=10)
    return labels, flipped, probabilities, shares


def test_the_first_suspects_are_the_wrong_labels(judged):
    labels, flipped, probabilities, shares = judged
    found = suspects.verdicts(suspects.together(np.log(probabilities), shares, flipped), flipped)
    first = np.argsort(found.quality)[:N_FLIPPED]
    assert (labels != flipped)[first].mean() >= 0.9
    assert (found.suggested == labels)[first].mean() >= 0.9
    assert N_FLIPPED * 0.7 <= found.is_suspect.sum() <= N_FLIPPED * 1.5


def test_answers_are_of_heads_that_did_not_see_the_label(judged):
    labels, flipped, probabilities, _ = judged
    wrong = labels != flipped
    assert (probabilities.argmax(axis=1) == labels)[wrong].mean() > 0.8
    rng = np.random.default_rng(1)
    features, noise = rng.normal(size=(300, 20)).astype(np.float32), rng.integers(0, 2, 300)
    logits = out_of_fold(features, noise, n_classes=2, groups=np.arange(300), seed=7)
    assert 0.35 < (logits.argmax(axis=1) == noise).mean() < 0.65


def test_many_images_are_answered_with_a_penalty_found_on_some(monkeypatch):
    images, labels, _ = digits()
    vectors, groups = waves(images, seed=0), np.arange(len(labels))
    monkeypatch.setattr("darkroom.training.linear_head.PENALTY_IMAGES", 300)
    logits = out_of_fold(vectors, labels, n_classes=10, groups=groups, seed=7)
    assert (logits.argmax(axis=1) == labels).mean() > 0.95
    assert len(np.unique(assign_folds(labels, groups, n_folds=3, seed=8))) == 3


def test_a_near_duplicate_is_no_neighbour():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 5)).astype(np.float32)
    features[1] = features[0] + 1e-4
    assert suspects.nearest(features, np.arange(30), k=3).positions[0, 0] == 1
    groups = np.r_[0, 0, np.arange(1, 29)]
    found = suspects.nearest(features, groups, k=3)
    assert 1 not in found.positions[0]
    assert (np.diff(found.distances[0]) >= 0).all()
    alone = suspects.nearest(features[:2], np.zeros(2, int))
    assert (alone.positions == -1).all()
    assert suspects.votes(alone, np.array([0, 1]), n_classes=2) == pytest.approx(np.full((2, 2), 0.5))


def test_as_many_are_suspected_as_the_confident_joint_counts():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.45, 0.55], [0.9, 0.1]])
    labels = np.array([0, 0, 1, 1, 0, 1])  # mean probability of the label: 0.717 of class 0, 0.467 of class 1
    found = suspects.verdicts(probabilities, labels)
    assert found.is_suspect.tolist() == [False, False, False, False, True, True]
    assert found.quality == pytest.approx([0.9, 0.8, 0.6, 0.7, 0.45, 0.1])
    unsure = np.array([[0.52, 0.48], [0.9, 0.1], [0.1, 0.9], [0.52, 0.48]])
    assert not suspects.verdicts(unsure, np.array([0, 0, 1, 1])).is_suspect.any(), "below the threshold of class 0"
    assert found.suggested.tolist() == [1, 1, 0, 0, 1, 0]
