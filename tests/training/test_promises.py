"""What a model promises, in metadata and in one line, and the images that are set aside for it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import FeaturesWriter
from darkroom.data.arrays.seen import set_aside
from darkroom.evaluation.metrics.abstention import ALWAYS
from darkroom.training.calibration import HeldOut
from darkroom.training.data import vectors
from darkroom.training.opened import open_data
from darkroom.training.promises import FREE, PENALTY, abstention, prediction_sets
from darkroom.training.recipe import FEW_VALIDATION, set_aside_from
from tests.support.shades import write_shades
from tests.training.test_recipe import TRANSFER, made

ABSTAIN = {"error_rate": 0.05, "confidence": 0.9}


def held_out(n_images: int, *, n_wrong: int = 0) -> HeldOut:
    """Answers of two classes, the least sure ones wrong."""
    sure = np.linspace(0.55, 0.99, n_images)
    return HeldOut(np.column_stack([sure, 1 - sure]), (np.arange(n_images) < n_wrong).astype(int))


@pytest.mark.parametrize(("by_folds", "about"), [(False, ""), (True, ", which are answered by heads of folds")])
def test_a_threshold_is_reported_with_what_it_rests_on(by_folds: bool, about: str) -> None:
    answers = held_out(400, n_wrong=40)
    found = abstention(made(abstain=ABSTAIN), guide=answers, calibration=answers, by_folds=by_folds)
    said = found.metadata["abstain"]
    assert 0.55 < found.metadata["abstain_below"] < 0.65
    assert said == {**ABSTAIN, "n_images": 400, "n_answered": said["n_answered"], "n_wrong": said["n_wrong"]} | {
        "by_folds": by_folds
    }
    assert 0 < said["n_wrong"] / said["n_answered"] < 0.05
    assert found.sentence.startswith("does not answer below 0.58")
    limit = "at most 5% of the answers are wrong, with 90% confidence"
    assert f"then {limit} (of 400 calibration images it answers {said['n_answered']}, {said['n_wrong']} wrong)" in (
        found.sentence
    )
    assert (about in found.sentence) is by_folds or not about


@pytest.mark.parametrize(
    ("n_images", "n_wrong", "why"),
    [
        (0, 0, "it takes 45 at least; add images, raise preprocess.val_fraction or abstain.error_rate"),
        (44, 0, "it takes 45 at least; add images, raise preprocess.val_fraction or abstain.error_rate"),
        (100, 90, "the 100 of them that it is most likely right about, 90 are wrong"),
    ],
)
def test_what_cannot_be_shown_is_never_answered(n_images: int, n_wrong: int, why: str) -> None:
    found = abstention(
        made(abstain=ABSTAIN), guide=held_out(100), calibration=held_out(n_images, n_wrong=n_wrong), by_folds=False
    )
    assert found.metadata["abstain_below"] == ALWAYS
    assert found.sentence == (
        f"never answers: {n_images} calibration images do not show that at most 5% of the answers are wrong, with "
        f"90% confidence: {why}"
    )


@pytest.mark.parametrize(("by_folds", "about"), [(False, ""), (True, ", which are answered by heads of folds: that")])
def test_sets_are_reported_with_what_they_rest_on(by_folds: bool, about: str) -> None:
    found = prediction_sets(made(sets={"coverage": 0.95}), calibration=held_out(400, n_wrong=40), by_folds=by_folds)
    said = found.metadata["sets"]
    assert 0.55 < said.pop("threshold") < 0.6, "21 of the 40 wrong answers must be covered, the least sure"
    assert said == {"coverage": 0.95, "penalty": PENALTY, "free": FREE, "n_images": 400, "by_folds": by_folds}
    limit = "lists the classes among which the true one is for 95% of images"
    assert found.sentence.startswith(f"{limit}: 1.05 on average, over 400 calibration images{about}")


def test_with_too_few_images_every_class_is_listed() -> None:
    found = prediction_sets(made(sets={"coverage": 0.95}), calibration=held_out(18), by_folds=False)
    assert found.metadata["sets"]["threshold"] > 1 + PENALTY
    assert found.sentence == (
        "lists every class: 18 calibration images are too few for a coverage of 95%: "
        "it takes 19 at least; add images, or raise preprocess.val_fraction"
    )


def test_images_are_set_aside_where_something_is_promised() -> None:
    solved = {"architecture": {**TRANSFER, "mode": "features"}, "abstain": ABSTAIN}
    assert set_aside_from(made()) is None
    assert set_aside_from(made(abstain=ABSTAIN, debug={"overfit_one_batch": True, "max_steps": None})) is None
    assert set_aside_from(made(abstain=ABSTAIN)) == set_aside_from(made(sets={"coverage": 0.9})) == 2
    assert set_aside_from(made(**solved, test_time_views="flip")) == 2, "no folds answer for views"
    assert set_aside_from(made(**solved)) == set_aside_from(made(abstain=ABSTAIN), searching=True) == FEW_VALIDATION


def test_half_of_val_is_set_aside_by_content_and_features_follow(tmp_path: Path) -> None:
    write_shades(tmp_path / "prepared", splits=["train"] * 6 + ["val"] * 40, shape=(8, 8, 1))
    prepared = Dataset.open(tmp_path / "prepared")
    rows = prepared.rows("val")
    labels = prepared.labels[rows]
    with FeaturesWriter(tmp_path / "features") as writer:
        for split, n_rows in (("train", 6), ("val", 40)):
            values = np.arange(n_rows, dtype=np.float32)[:, None]
            numbered = np.column_stack([np.zeros(n_rows, int), np.arange(n_rows), np.arange(n_rows)])
            writer.write(split, [values], n_features=1, rows=numbered, labels=prepared.labels[:n_rows])
        about = dict.fromkeys(("weights", "weights_origin", "weights_sha256", "image_size", "seed", "augmented_digest"))
        writer.finish(backbone="tiny", prepared_digest=prepared.manifest["digest"], **about)
    whole = open_data(tmp_path / "prepared", None, tmp_path / "features", set_aside_from=41)
    assert (len(whole.data.val_labels), whole.calibration, whole.data.official_val) == (40, None, False)
    opened = open_data(tmp_path / "prepared", None, tmp_path / "features", set_aside_from=40)
    aside = set_aside(prepared)
    assert opened.calibration is not None
    assert opened.features is not None
    assert 10 < aside.sum() < 30
    np.testing.assert_array_equal(opened.data.val_labels, labels[~aside])
    np.testing.assert_array_equal(opened.calibration.val_labels, labels[aside])
    np.testing.assert_array_equal(opened.calibration.val_images[np.arange(3)], prepared.images[rows[aside][:3]])
    of_features = vectors(opened.features, opened.data)
    np.testing.assert_array_equal(of_features.val_images[:, 0], np.flatnonzero(~aside))
    assert len(of_features.val_labels) == len(of_features.val_groups) == opened.features.counts["val"] == (~aside).sum()


def test_an_official_validation_set_is_halved_however_small(tmp_path: Path) -> None:
    write_shades(tmp_path, splits=["train"] * 6 + ["val"] * 40, shape=(8, 8, 1))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"official_val": True}))
    opened = open_data(tmp_path, None, None, set_aside_from=500)
    assert opened.data.official_val
    assert opened.calibration is not None
    assert len(opened.data.val_labels) + len(opened.calibration.val_labels) == 40
    assert open_data(tmp_path, None, None).calibration is None


def test_guarantees_are_calibrated_on_one_image_of_each_group(tmp_path: Path) -> None:
    write_shades(tmp_path, splits=["val"] * 60, shape=(8, 8, 1))
    index = pd.read_parquet(tmp_path / "index.parquet")
    index["group"] = [index["id"][row // 5 * 5] for row in range(60)]
    index.to_parquet(tmp_path / "index.parquet")
    opened = open_data(tmp_path, None, None, set_aside_from=2)
    aside = set_aside(opened.prepared)
    groups = index["group"].to_numpy()
    assert opened.calibration is not None
    assert len(opened.data.val_labels) == (~aside).sum()
    images = [image.tobytes() for image in opened.calibration.val_images[np.arange(len(opened.calibration.val_labels))]]
    rows = [row for row in range(60) if opened.prepared.images[row].tobytes() in images]
    assert sorted(groups[rows]) == sorted(set(groups[aside])), "each group that is set aside, once"


def test_a_group_is_in_one_half_of_the_answers() -> None:
    answers = held_out(300)._replace(groups=np.arange(300) // 3 * 7)
    one, other = answers.halves(seed=3)
    assert (len(one.labels), len(other.labels)) == (150, 50), "of the second half one of each group"
    sure = {half: set(map(float, answers_of.probabilities[:, 0])) for half, answers_of in enumerate((one, other))}
    for first in range(0, 300, 3):
        members = set(map(float, answers.probabilities[first : first + 3, 0]))
        assert members <= sure[0] or (not members & sure[0] and len(members & sure[1]) == 1)
