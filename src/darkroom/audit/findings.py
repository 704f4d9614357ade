"""The findings of an audit: labels that are probably wrong, twins with two labels, outliers, unusable images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from darkroom.audit import suspects
from darkroom.audit.material import N_FEATURES, Answers, Vectors
from darkroom.training.linear_head import log_softmax, out_of_fold

SEED = 7  # of the folds
LEAST_PROBABILITY = 1e-7  # float32 rounds smaller ones to 0
FAR = 1.5  # interquartile ranges above the upper quartile: outside of Tukey's fences
KINDS = {
    "label": "the label is probably wrong",
    "twins": "the same image has two labels",
    "outlier": "it resembles no other image",
    "blank": "all pixels are alike",
    "dark": "nothing in it is bright",
    "bright": "nothing in it is dark",
    "tiny": "the original is far smaller than the others",
}


class Finding(NamedTuple):
    """One image to look at.

    Attributes:
        kind: a key of KINDS.
        row: of the prepared images.
        quality: how well the label fits, 0 to 1; None for kinds other than label.
        suggested: the class that fits better, None if there is none.
        beside: rows of the images to show beside it: its neighbours, or its twin.
        agreeing: number of neighbours with its label; None without neighbours.
    """

    kind: str
    row: int
    quality: float | None = None
    suggested: int | None = None
    beside: Sequence[int] = ()
    agreeing: int | None = None


class Judged(NamedTuple):
    """The verdicts on the labels of some images.

    Attributes:
        rows: of the prepared images.
        verdicts: on their labels.
        agreement: the share of images whose most probable class is their label.
        neighbours: None if only answers are known.
    """

    rows: np.ndarray
    verdicts: suspects.Verdicts
    agreement: float
    neighbours: suspects.Neighbours | None


def by_vectors(
    vectors: Vectors, labels: np.ndarray, *, n_classes: int, probabilities: np.ndarray | None = None
) -> Judged:
    """Judge the labels of these vectors by models of other folds and by neighbours.

    Args:
        labels: int64, of all prepared images.
        probabilities: (n, classes), of models that were not trained on the groups of these images; None: fit linear
            heads on the vectors, one per fold.
    """
    own = labels[vectors.rows]
    values = suspects.main_directions(vectors.values, n=N_FEATURES)
    if probabilities is None:
        logarithms = log_softmax(out_of_fold(values, own, n_classes=n_classes, groups=vectors.groups, seed=SEED))
    else:
        logarithms = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    neighbours = suspects.nearest(values, vectors.groups)
    shares = suspects.votes(neighbours, own, n_classes=n_classes)
    both = suspects.together(logarithms, shares, own)
    return Judged(vectors.rows, suspects.verdicts(both, own), float((both.argmax(axis=1) == own).mean()), neighbours)


def by_answers(answers: Answers, labels: np.ndarray) -> Judged:
    """Judge labels by the winner's answers on images that it was not trained on."""
    own = labels[answers.rows]
    agreement = float((answers.probabilities.argmax(axis=1) == own).mean())
    return Judged(answers.rows, suspects.verdicts(answers.probabilities, own), agreement, None)


def wrong_labels(judged: Sequence[Judged], labels: np.ndarray) -> list[Finding]:
    """Return the suspects, the worst first."""
    found = []
    for rows, verdicts, _, neighbours in judged:
        for place in np.flatnonzero(verdicts.is_suspect).tolist():
            row, beside, agreeing = int(rows[place]), [], None
            if neighbours is not None:
                beside = [int(rows[other]) for other in neighbours.positions[place].tolist() if other >= 0]
                agreeing = int((labels[beside] == labels[row]).sum())
            quality, suggested = float(verdicts.quality[place]), int(verdicts.suggested[place])
            found.append(Finding("label", row, quality, suggested, beside, agreeing))
    return sorted(found, key=lambda one: (one.quality, one.row))


def twins(pairs: Sequence[tuple[int, int]], judged: Sequence[Judged], labels: np.ndarray) -> list[Finding]:
    """Return for every pair the row whose label fits worse, with the other's label as the suggestion."""
    quality = {int(row): value for part in judged for row, value in zip(part.rows, part.verdicts.quality, strict=True)}
    found = []
    for pair in pairs:
        worse, better = sorted(pair, key=lambda row: (quality.get(row, 0.5), -row))
        found.append(Finding("twins", worse, suggested=int(labels[better]), beside=[better]))
    return found


def outliers(judged: Judged) -> list[Finding]:
    """Return the images that are far from all others, the farthest first."""
    if judged.neighbours is None:
        return []
    positions, distances = judged.neighbours
    there = positions >= 0
    far = np.where(there, distances, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    low, high = np.quantile(far, [0.25, 0.75])
    beyond = np.flatnonzero(far > high + FAR * (high - low))
    ordered = beyond[np.argsort(-far[beyond], kind="stable")].tolist()
    return [
        Finding(
            "outlier", int(judged.rows[place]), beside=[int(judged.rows[at]) for at in positions[place][there[place]]]
        )
        for place in ordered
    ]


def unusable(reasons: Mapping[str, np.ndarray], rows: np.ndarray) -> list[Finding]:
    """Return the unusable images, grouped by reason."""
    return [Finding(kind, int(row)) for kind, has in reasons.items() for row in rows[has]]
