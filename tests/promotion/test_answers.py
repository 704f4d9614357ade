import numpy as np
import pytest

from darkroom.errors import DataError
from darkroom.promotion.answers import Answers

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.0, 0.0, 1.0]])


def test_answers_are_measured_against_the_true_class():
    found = Answers.of(PROBABILITIES, classes=["cat", "dog", "eel"], labels=np.array(["cat", "cat", "cat"]))
    assert found.correct.tolist() == [True, False, False]
    assert found.log_loss == pytest.approx([-np.log(0.7), -np.log(0.3), -np.log(1e-7)])
    assert found.brier == pytest.approx([0.09 + 0.04 + 0.01, 0.49 + 0.36 + 0.01, 2.0])


def test_a_class_unknown_to_the_model_has_probability_zero():
    labels = np.array(["horse", "dog", "eel"])
    known = Answers.of(np.insert(PROBABILITIES, 3, 0, axis=1), classes=["cat", "dog", "eel", "horse"], labels=labels)
    unknown = Answers.of(PROBABILITIES, classes=["cat", "dog", "eel"], labels=labels)
    assert unknown.correct.tolist() == known.correct.tolist() == [False, True, True]
    assert unknown.log_loss == pytest.approx(known.log_loss)
    assert unknown.brier == pytest.approx(known.brier)


def test_the_order_of_the_classes_does_not_matter():
    labels, turned = np.array(["cat", "dog", "eel"]), [2, 0, 1]
    a = Answers.of(PROBABILITIES, classes=["cat", "dog", "eel"], labels=labels)
    b = Answers.of(PROBABILITIES[:, turned], classes=["eel", "cat", "dog"], labels=labels)
    assert a.correct.tolist() == b.correct.tolist()
    assert a.brier == pytest.approx(b.brier)


def test_probabilities_of_other_shape_are_refused():
    with pytest.raises(DataError, match=r"probabilities of shape \(3, 3\) for 2 images and 3 classes"):
        Answers.of(PROBABILITIES, classes=["cat", "dog", "eel"], labels=np.array(["cat", "dog"]))
