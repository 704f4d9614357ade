import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from darkroom.data.arrays.dataset import SPLITS
from darkroom.promotion import model_card

VOID = {"meta", "link", "img", "br", "hr", "input", "source"}


def card(**changes):
    classes = changes.pop("classes", ["cat", "dog"])
    facts = {
        "name": "pets",
        "version": "3",
        "created": "2026-03-01T12:00:00+00:00",
        "model": {"classes": classes, "image_shape": [32, 48, 3], "color": "rgb", "dataset": "pets"},
        "metrics": {
            "test_accuracy": 0.9731,
            "test_accuracy_ci95": [0.96, 0.98],
            "macro_f1": 0.97,
            "ece": 0.012,
            "latency_ms_p50": 0.7,
            "latency_ms_p95": 1.25,
            "model_bytes": 425_602,
            "recent": None,
            "per_class": {
                name: {"precision": None, "recall": 1 - 0.01 * n, "f1": 0.9, "support": 50}
                for n, name in enumerate(classes)
            },
        },
        "promotion": {
            "decision": "promoted",
            "reasons": ["The candidate's test accuracy 97.31 % on 400 images reaches the minimum 90.00 %."],
            "champion_before": "2",
            "tests": {
                "min_test_accuracy": {"status": "passed", "sentence": "It reaches the minimum.", "test_accuracy": 0.97},
                "max_ece": {"status": "off", "sentence": "The gate max_ece is off."},
            },
        },
        "data": {
            "dataset": "pets",
            "classes": classes,
            "image_shape": [32, 48, 3],
            "color": "rgb",
            "n_rows": 1000,
            "counts": {split: dict.fromkeys(classes, 200) for split in SPLITS},
            "digest": "d" * 64,
        },
        "source": {"licence": "CC-BY-4.0", "homepage": "https://example.org/pets"},
        "tags": {"git.commit": "c" * 40, "git.dirty": "true", "candidate": "cnn", "other": "x"},
        "run_id": "r" * 32,
    }
    return model_card.render(**{**facts, **changes})


class Balanced(HTMLParser):
    """Fails where a tag is not closed in the order in which it was opened."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        assert all(value is not None for _, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_card_says_purpose_quality_and_limits():
    for text in card()[:2]:
        for fact in (
            "It classifies a still image into one of 2 classes: cat, dog.",
            "97.31%",
            "96.00% to 98.00%",
            "It never abstains.",
            "1.25 ms",
            "CC-BY-4.0",
            "c" * 40,
            "with uncommitted changes",
            "It reaches the minimum.",
            "version 2",
            "48 x 32 pixels",
        ):
            assert fact in text.replace("\\", "")


@pytest.mark.parametrize("classes", [["cat", "dog"], ["<script>alert(1)</script>", "a & b | c"]])
def test_the_page_is_well_formed_and_needs_nothing_else(classes):
    page = card(classes=classes).html
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert "<script" not in page
    assert not any(word in page for word in ("src=", "href=", "url(", "@import"))
    body = page[page.index("<body>") : page.index("</html>")]
    assert "Intended use" in "".join(ElementTree.fromstring(body).itertext())  # noqa: S314  (our own page)


def test_class_names_cannot_break_the_tables_of_the_markdown():
    text = card(classes=["a|b", "two\nlines", "<b>"]).markdown
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.endswith("50 |")]
    assert [row.split(" | ")[0] for row in rows] == ["| \\<b\\>", "| two lines", "| a\\|b"]


def test_the_recent_accuracy_stands_beside_that_of_the_test_set():
    for text in card()[:2]:
        assert "Recent" not in text
        assert "All figures were measured on 400 test images" in text
    metrics = {"test_accuracy": 0.9731, "test_accuracy_ci95": [0.96, 0.98]}
    for text in card(metrics={**metrics, "recent": {"accuracy": 0.0953, "n_images": 2400}})[:2]:
        assert "2,400 images that came later" in text
        assert "9.53%" in text
        assert "All figures but the recent accuracy were measured on 400 test images" in text


def test_the_lowest_recall_and_a_threshold_are_among_the_limits():
    model = {"classes": ["cat", "dog"], "image_shape": [8, 8, 1], "color": "grey", "abstain_below": 0.6}
    text = card(model=model).markdown.replace("\\", "")
    assert "It is weakest on 'dog': recall 99.0% on 50 test images." in text
    assert "unless the probability is below 0.6: such predictions are marked as abstained." in text
    assert "Colour is ignored" in text


ABSTAIN = {"error_rate": 0.01, "confidence": 0.95, "n_images": 2500, "n_answered": 2400, "n_wrong": 11}


@pytest.mark.parametrize(("by_folds", "nearly"), [(False, ""), (True, "nearly ")])
def test_a_promise_stands_beside_what_was_measured(by_folds, nearly):
    model = {"classes": ["cat", "dog"], "image_shape": [8, 8, 1], "color": "grey", "abstain_below": 0.6}
    measured = {"share_answered": 0.9637, "error_answered": 0.0082, "error_answered_ci95": [0.0051, 0.0133]}
    metrics = {"test_accuracy": 0.9731, "test_accuracy_ci95": [0.96, 0.98], "recent": None, **measured}
    text = card(model={**model, "abstain": {**ABSTAIN, "by_folds": by_folds}}, metrics=metrics).markdown
    assert f"so that {nearly}at most 1 % of its answers are wrong, with 95 % confidence" in text
    assert (
        "It answered 96.37% of the test images, and 0.82% of these answers were wrong (95 % interval 0.51% to" in text
    )


def test_a_model_that_never_answers_says_why():
    model = {"classes": ["cat", "dog"], "image_shape": [8, 8, 1], "color": "grey", "abstain_below": 2.0}
    text = card(model={**model, "abstain": {**ABSTAIN, "by_folds": False}}).markdown
    assert (
        "It never answers: all predictions are marked as abstained: 2,500 calibration images do not show that" in text
    )


@pytest.mark.parametrize(("by_folds", "nearly"), [(False, "at least "), (True, "nearly ")])
def test_sets_are_reported_as_promised_and_as_measured(by_folds, nearly):
    sets = {"coverage": 0.95, "by_folds": by_folds, "n_images": 19}
    model = {"classes": ["cat", "dog"], "image_shape": [8, 8, 1], "color": "grey", "sets": sets}
    measured = {"coverage": 0.9637, "coverage_ci95": [0.9519, 0.9712], "mean_set_size": 1.218}
    metrics = {"test_accuracy": 0.9731, "test_accuracy_ci95": [0.96, 0.98], "recent": None, **measured}
    text = card(model=model, metrics=metrics).markdown.replace("\\", "")
    assert f"Its prediction sets hold the true class of {nearly}95 % of images like those in the dataset." in text
    assert "They did for 96.37% of the test images (95 % interval 95.19% to 97.12%), with 1.22 classes" in text
    assert "prediction sets" not in card().markdown
    text = card(model={**model, "sets": {**sets, "n_images": 18}}, metrics=metrics).markdown
    assert "Its prediction sets list every class: 18 calibration images are too few for 95 %." in text


def test_missing_test_images_and_manifests_are_reported():
    found = card(source=None)
    assert "Licence and source: unknown" in found.markdown
    counts = {split: {"cat": 200, "dog": 0} for split in SPLITS}
    data = {"dataset": "pets", "classes": ["cat", "dog"], "image_shape": [8, 8, 1], "color": "grey", "counts": counts}
    text = card(data={**data, "n_rows": 3, "digest": "d"}).markdown
    assert "Fewer than 30 test images for dog" in text


def test_of_a_thousand_classes_the_worst_are_shown():
    found = card(classes=[f"class {number:04}" for number in range(99)])
    assert "class 0000, class 0001" in found.markdown
    assert "and 87 more" in found.markdown
    assert "Of 99 classes, the 50 with the lowest recall:" in found.markdown
    assert found.html.count('<th scope="row">class ') == 50
    assert len(found.short) < 5000


def test_the_card_says_what_choosing_by_the_test_images_does():
    champion = {"status": "passed", "n_comparisons": 37, "candidate_accuracy_corrected": 0.9712}
    text = card(
        promotion={"decision": "promoted", "reasons": [], "champion_before": "2", "tests": {"champion": champion}}
    )
    assert (
        "It was chosen by its test images, in the 37th comparison on this test set; corrected for that, its "
        "accuracy is 97.12%." in text.markdown
    )
    assert "It was chosen by its test images" not in card().markdown


def test_corrected_labels_are_counted_and_test_images_marked():
    said = {"n_corrected": 3, "n_dropped": 1, "n_test": 2, "pairs": [{"old": "cat", "new": "dog", "n": 3}]}
    counts = {split: {"cat": 200, "dog": 200} for split in SPLITS}
    data = {"dataset": "pets", "classes": ["cat", "dog"], "image_shape": [32, 48, 3], "color": "rgb", "n_rows": 1000}
    text = card(data={**data, "counts": counts, "digest": "d" * 64, "corrections": said}).markdown
    assert "labels corrected: 3, images dropped: 1, 2 of them test images" in text
    assert "corrections" not in card().markdown
