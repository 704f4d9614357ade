"""Calibrate guarantees of a model on images that were set aside, for the metadata of its ONNX file."""

import math
from typing import Any, NamedTuple

import numpy as np

from darkroom.deployable.scores import set_scores
from darkroom.evaluation.metrics import prediction_sets as conformal
from darkroom.evaluation.metrics.abstention import ALWAYS, find_threshold, least_images
from darkroom.training.calibration import HeldOut
from darkroom.training.recipe import Recipe

PENALTY, FREE = 0.01, 1  # give the smallest sets, or nearly so, in benchmarks/prediction_sets.py
ROUNDING = 1e-5  # maximum difference between probabilities of the ONNX file and of the calibration


class Promise(NamedTuple):
    """Metadata of the model (values for JSON), and the same as a sentence."""

    metadata: dict[str, Any]
    sentence: str


def unknown(unknown_below: float, *, scale: dict[str, list[float]], n_images: int) -> Promise:
    """Return the threshold of strangeness above which an image is unknown.

    Args:
        unknown_below: share of known images that may be unknown.
        scale: see familiarity.scale_of.
        n_images: number of images of the scale.
    """
    metadata = {"unknown_below": unknown_below, "familiarity": scale}
    limit = f"stranger than all but {100 * unknown_below:g}% of known ones"
    least = math.floor(1 / unknown_below)
    if n_images < least:
        few = f"{n_images:,} images that were held out cannot show which are {limit}: it takes {least:,} at least"
        return Promise(metadata, f"finds no image unknown: {few}; add images, or raise preprocess.val_fraction")
    return Promise(metadata, f"finds images unknown that are {limit}, by {n_images:,} that were held out")


def abstention(recipe: Recipe, *, guide: HeldOut, calibration: HeldOut, by_folds: bool) -> Promise:
    """Return the threshold below which the model does not answer; see abstention.find_threshold.

    Args:
        recipe: with `abstain`.
        guide: answers on images on which epoch, temperature or winner may depend, at least one.
        calibration: answers on others, at the same temperature.
        by_folds: whether the answers are out of fold and not the model's; then the guarantee holds for the heads of the
            folds, which were fitted to fewer images, and only approximately for the model.
    """
    asked = recipe["abstain"]
    sides = ((one.probabilities.max(axis=1), one.correct) for one in (calibration, guide))
    (probability, correct), others = sides
    found = find_threshold(probability, correct, guide=others, **asked)
    seen = {name: value for name, value in found._asdict().items() if name != "abstain_below"}
    metadata = {"abstain_below": found.abstain_below, "abstain": {**asked, **seen, "by_folds": by_folds}}
    sure = f"with {100 * asked['confidence']:g}% confidence"
    limit = f"at most {100 * asked['error_rate']:g}% of the answers are wrong, {sure}"
    n_images, least = f"{found.n_images:,} calibration images", least_images(**asked)
    if found.abstain_below < ALWAYS:
        shown = f"of {n_images} it answers {found.n_answered:,}, {found.n_wrong:,} wrong"
        said = f"does not answer below {found.abstain_below:.6g}: then {limit} ({shown})"
        about = ", which are answered by heads of folds: that holds nearly for the model" if by_folds else ""
        return Promise(metadata, said + about)
    why = f"the {found.n_answered:,} of them that it is most likely right about, {found.n_wrong:,} are wrong"
    if found.n_images < least:
        why = f"it takes {least:,} at least; add images, raise preprocess.val_fraction or abstain.error_rate"
    return Promise(metadata, f"never answers: {n_images} do not show that {limit}: {why}")


def prediction_sets(recipe: Recipe, *, calibration: HeldOut, by_folds: bool) -> Promise:
    """Return the threshold of scores up to which a class is in the prediction set; see package.set_scores.

    With fewer images than prediction_sets.least_images() every class is listed.

    Args:
        recipe: with `sets`.
        calibration, by_folds: see abstention.
    """
    coverage, (probabilities, labels, _) = recipe["sets"]["coverage"], calibration
    scores = set_scores(probabilities, penalty=PENALTY, free=FREE)
    found = conformal.score_threshold(scores[np.arange(len(labels)), labels], coverage)
    n_images, n_classes = len(labels), probabilities.shape[1]
    threshold = min(found + ROUNDING, 1 + PENALTY * n_classes)  # JSON has no infinity; no score is greater
    rule = {"threshold": threshold, "penalty": PENALTY, "free": FREE}
    metadata = {"sets": {"coverage": coverage, **rule, "n_images": n_images, "by_folds": by_folds}}
    share = f"{100 * coverage:g}%"
    if math.isinf(found):
        least = f"it takes {conformal.least_calibration_images(coverage):,} at least"
        why = f"{n_images:,} calibration images are too few for a coverage of {share}: {least}"
        return Promise(metadata, f"lists every class: {why}; add images, or raise preprocess.val_fraction")
    size = f"{(scores <= threshold).sum(axis=1).mean():.2f} on average, over {n_images:,} calibration images"
    about = ", which are answered by heads of folds: that holds nearly for the model" if by_folds else ""
    return Promise(metadata, f"lists the classes among which the true one is for {share} of images: {size}{about}")
