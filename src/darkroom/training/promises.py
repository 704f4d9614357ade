"""What a model promises of its answers: from images that were set aside to what its ONNX file says of itself."""

import math
from typing import Any, NamedTuple

from darkroom.evaluation.metrics.abstention import ALWAYS, find_threshold, least_images
from darkroom.training.calibration import HeldOut
from darkroom.training.recipe import Recipe


class Promise(NamedTuple):
    """What the model says of itself (plain values, for JSON), and the same for a reader, in one line."""

    metadata: dict[str, Any]
    sentence: str


def unknown(unknown_below: float, *, scale: dict[str, list[float]], n_images: int) -> Promise:
    """Return from which strangeness on an image is unknown.

    Args:
        unknown_below: share of known images that may be unknown.
        scale: see familiarity.scale_of.
        n_images: that it rests on.
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
        guide: answers about images that epoch, temperature or winner may depend on, at least one.
        calibration: answers about others, at the same temperature.
        by_folds: whether heads of folds gave the answers, and not the model: what is shown holds for these heads, which
            were fitted to fewer images, and nearly for the model.
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
