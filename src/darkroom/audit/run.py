"""Audit a prepared dataset."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.audit import findings, material, pixels
from darkroom.audit.findings import Finding
from darkroom.data.arrays.dataset import SPLIT_CODES, UNUSED, Dataset
from darkroom.data.preparation.corrections import read_corrections

REPORTS = "reports/audit"  # relative to the repository
CORRECTIONS = "data/corrections.csv"
N_FOLDS = 3
ENOUGH_AGREEMENT = 0.7  # of labels and out-of-fold answers; below it the heads' errors outnumber wrong labels


class Audit(NamedTuple):
    """The result of an audit.

    Attributes:
        dataset: the prepared images.
        found: the worst of each kind first; kinds in the order of findings.KINDS.
        n_images: number of images that the dataset uses.
        n_judged: number of images whose labels were judged.
        n_decided: number of images left out because data/corrections.csv has a decision about them.
        by: what labels were judged by, in words.
        notes: how to have more labels judged.
    """

    dataset: Dataset
    found: list[Finding]
    n_images: int
    n_judged: int
    n_decided: int
    by: list[str]
    notes: list[str]

    def of_kind(self, *kinds: str) -> list[Finding]:
        """Return the findings of some kinds."""
        return [one for one in self.found if one.kind in kinds]


def audit(root: Path, *, source: str, bits: int, n_folds: int = N_FOLDS) -> Audit:
    """Audit data/prepared of a repository.

    Args:
        source: what labels are judged by, see material.vectors.
        bits: see preprocess.near_duplicate_bits.
        n_folds: number of trainings, if source is network.

    Raises:
        DataError: data/prepared does not exist, or data/features belongs to other images.
    """
    if source == "network":
        material.candidate_recipe(root)  # fail on a mistake in params.yaml before anything is computed
    dataset = Dataset.open(root / "data" / "prepared")
    index, labels = dataset.index(), dataset.labels
    used = np.flatnonzero(dataset.splits != SPLIT_CODES[UNUSED])
    copies = pixels.small_copies(dataset.images, used)
    vectors = material.vectors(dataset, root / "data" / "features", source=source, copies=copies, rows=used)
    said = material.network_answers(dataset, vectors, root, n_folds=n_folds) if source == "network" else None
    judged = [findings.by_vectors(vectors, labels, n_classes=len(dataset.classes), probabilities=said)]
    by = [f"{len(vectors.rows):,} by {vectors.name}"]
    answers = material.answers(dataset, root / "reports") if len(vectors.rows) < len(used) else None
    if answers is not None and len(answers.rows):
        judged.append(findings.by_answers(answers, labels))
        by.append(f"{len(answers.rows):,} by the winner's answers on test images")
    pairs = [
        (int(used[one]), int(used[other]))
        for one, other in pixels.twins_with_two_labels(copies, labels[used], bits=bits)
    ]
    reasons = pixels.unusable(copies, index[["height", "width"]].to_numpy()[used], image_shape=dataset.image_shape)
    found = [
        *findings.wrong_labels(judged, labels),
        *findings.twins(pairs, judged, labels),
        *findings.outliers(judged[0]),
        *findings.unusable(reasons, used),
    ]
    decided = _decided(root, index["id"].tolist(), index["label"].tolist())
    n_judged = sum(len(part.rows) for part in judged)
    return Audit(
        dataset,
        [one for one in found if one.row not in decided],
        n_images=len(used),
        n_judged=n_judged,
        n_decided=len(decided),
        by=by,
        notes=[
            *_doubts(judged[0].agreement, vectors.name),
            *_notes(dataset, n_missing=len(used) - n_judged, has_answers=answers is not None),
        ],
    )


def _decided(root: Path, ids: list[str], labels: list[str]) -> set[int]:
    """Return the rows whose present label a person has confirmed, given, or corrected for the next preprocess."""
    said = {(line.id, label) for line in read_corrections(root / CORRECTIONS) for label in (line.old, line.new)}
    return {row for row, looked_at in enumerate(zip(ids, labels, strict=True)) if looked_at in said}


def _doubts(agreement: float, name: str) -> list[str]:
    """Return a warning if the classes cannot be told apart, because most suspects are then errors of the heads."""
    if agreement >= ENOUGH_AGREEMENT:
        return []
    return [
        f"by {name} only {agreement:.0%} of the labels are found again, so most suspects may be right: use a backbone"
    ]


def _notes(dataset: Dataset, *, n_missing: int, has_answers: bool) -> list[str]:
    if n_missing == 0:
        return []
    n_test = len(dataset.rows("test")) + len(dataset.rows("recent"))
    said = [] if has_answers else [f"{n_test:,} test images are judged once `dvc repro evaluate` has run"]
    if n_others := n_missing - (0 if has_answers else n_test):
        said.append(
            f"{n_others:,} images have no features; set embed.max_images: null in params.yaml and run `dvc repro "
            "embed`, or pass --by pixels"
        )
    return said


def in_words(audit: Audit) -> str:
    """Return one line with the number of suspect labels and of other findings."""
    n_wrong = len(audit.of_kind("label"))
    n_twins, n_far = len(audit.of_kind("twins")), len(audit.of_kind("outlier"))
    n_useless = len(audit.of_kind("blank", "dark", "bright", "tiny"))
    words = (
        f"{n_wrong:,} of {audit.n_judged:,} labels are probably wrong ({n_wrong / max(1, audit.n_judged):.1%}), "
        f"{n_twins:,} near-duplicates have two labels, {n_far:,} images resemble no other, {n_useless:,} are unusable"
    )
    n = audit.n_decided
    decided = f"; {n:,} more {'were' if n > 1 else 'was'} decided about in {CORRECTIONS}" if n else ""
    return f"{words}{decided} (judged: {', '.join(audit.by)}{''.join(f'; {note}' for note in audit.notes)})"
