import json
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pyarrow as pa
import pytest

from darkroom.evaluation.metrics.classification import accuracy_interval
from darkroom.monitoring import figure
from darkroom.monitoring.accuracy import served_accuracy
from darkroom.monitoring.drift import Sample, compare
from darkroom.monitoring.feedback import TrueLabel
from darkroom.monitoring.log import schema

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def image(number):
    return f"{number:064x}"


def asked(number, label, *, version="1", days=0.0, request=None, position=0):
    row = {"id": image(number), "time": MONDAY + timedelta(days=days), "version": version, "label": label}
    return row | {"request_id": request or f"r{number}", "position": position}


def said(number, label, *, at=0, **more):
    return TrueLabel(number if isinstance(number, str) else image(number), label, MONDAY + timedelta(hours=at), **more)


def accuracy(rows, labels):
    return served_accuracy(pa.Table.from_pylist(rows, schema=schema()), labels)


def test_accuracy_is_per_version_and_week_with_its_interval():
    rows = [asked(number, "cat", days=number % 14) for number in range(100)]
    rows += [asked(number, "dog", version="10", days=8) for number in range(10)]
    found = accuracy(rows, [said(number, "dog" if number < 20 else "cat") for number in range(60)])
    assert [(one.version, one.week, one.n_labelled) for one in found.weeks] == [
        ("1", "2026-03-02", 32),
        ("1", "2026-03-09", 28),
        ("10", "2026-03-09", 10),
    ]
    first, tenth = found.versions
    assert (first.n_labelled, first.n_correct, first.accuracy) == (60, 40, pytest.approx(2 / 3))
    assert first.ci95 == accuracy_interval(np.arange(60) < 40)
    assert (tenth.version, tenth.accuracy) == ("10", 1.0)
    assert (found.n_images, found.notes) == (60, [])
    assert found.of("10") == tenth
    assert found.of("2") is None
    assert json.loads(json.dumps(found.as_dict()))["versions"][0]["n_correct"] == 40


def test_an_image_that_was_asked_often_counts_once():
    rows = [asked(0, "cat", days=day / 100) for day in range(300)] + [asked(1, "dog")]
    found = accuracy(rows, [said(0, "cat"), said(1, "cat")])
    assert [(one.n_labelled, one.n_correct) for one in (*found.weeks, *found.versions)] == [(2, 1), (2, 1)]


def test_the_last_label_of_an_image_counts_and_conflicts_too():
    rows = [asked(number, "cat") for number in range(3)]
    labels = [said(0, "dog"), said(0, "cat", at=1), said(1, "cat"), said(1, "cat", at=1), said("r2", "dog")]
    found = accuracy(rows, [*labels, said(2, "cat", at=2), said(7, "cat")])
    assert found.versions[0].n_correct == 3
    assert found.notes == [
        "1 true labels are of an image that the window does not have; they are ignored.",
        "2 images have true labels that contradict each other; the last one counts.",
    ]


def test_an_image_may_be_named_by_its_request():
    rows = [asked(number, "cat", request="batch", position=number) for number in range(3)]
    rows += [asked(5, "cat", request="twice"), asked(6, "cat", request="twice"), asked(7, "cat", request="again")]
    rows += [asked(7, "cat", request="again", days=1)]
    found = accuracy(rows, [said("batch", "dog", position=1), said("again", "cat")])
    assert (found.versions[0].n_labelled, found.versions[0].n_correct, found.n_unmatched) == (2, 1, 0)
    unclear = [said("batch", "dog"), said("batch", "dog", position=3), said("twice", "dog"), said("nobody", "dog")]
    assert (accuracy(rows, unclear).n_images, accuracy(rows, unclear).n_unmatched) == (0, 4)


def test_without_labels_there_is_no_accuracy():
    for rows in ([], [asked(0, "cat")]):
        found = accuracy(rows, [])
        assert (found.versions, found.weeks, found.n_images, found.notes) == ([], [], 0, [])


def test_the_weeks_are_drawn(tmp_path):
    rows = [asked(number, "cat", days=number % 60, version=str(number % 4)) for number in range(400)]
    weeks = accuracy(rows, [said(number, "cat" if number % 7 else "dog") for number in range(400)]).weeks
    sample = Sample({"brightness": np.arange(300.0)})
    for name, shown in (("with", weeks), ("without", ())):
        figure.drift(compare(sample, sample), sample, sample, tmp_path / f"{name}.png", weeks=shown)
    drawn, empty = (np.asarray(cv2.imread(str(tmp_path / f"{name}.png"))) for name in ("with", "without"))
    assert drawn.shape == empty.shape
    half = drawn.shape[1] // 2
    assert min((image[:, half:] != 255).sum() for image in (drawn, empty)) > 10_000, "no panel is left empty"
    assert (drawn != empty).mean() > 0.02
