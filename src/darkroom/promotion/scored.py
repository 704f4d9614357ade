"""The answers of a winner and the champion on the same images, and the images on which they may be compared."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.seen import is_seen, read_seen_ids
from darkroom.evaluation.predictions import answered_rows
from darkroom.promotion.answers import Answers, Scored
from darkroom.promotion.scoring import SEEN, loaded, probabilities, seen_by
from darkroom.promotion.slices import test_slices
from darkroom.promotion.winner import Winner
from darkroom.registry.snapshot import SHA256, Version


class Both(NamedTuple):
    """The arguments of `decision.decide` for a winner and the champion.

    Attributes:
        recent: None if there are no recent images.
        champion_classes: None if there is no champion.
        remarks: full sentences about the comparison besides its result.
    """

    test: Scored
    recent: Scored | None
    classes: Sequence[str]
    champion_classes: Sequence[str] | None
    remarks: list[str]


def score(winner: Winner, champion: Version | None, *, reference: Version | None = None, slices: Sequence[str]) -> Both:
    """Return both models' answers on the images of the winner's evaluation; the champion classifies them now.

    Args:
        reference: a version that also classifies the test images, for the margin.
        slices: the attributes by which the test images are sliced.

    Raises:
        DataError: outputs of evaluate or preprocess are missing or do not belong together.
        NotComparable: the champion needs originals that are gone or have changed.
        RegistryError: the champion cannot be loaded, or fails.
    """
    dataset = Dataset.open(winner.prepared)
    predicted = {split: found for split in ("test", "recent") if len((found := winner.answers(split)).ids)}
    rows = {split: answered_rows(dataset, answers) for split, answers in predicted.items()}
    parts = {
        split: Scored(answers.labels, Answers.of(answers.probabilities, classes=dataset.classes, labels=answers.labels))
        for split, answers in predicted.items()
    }
    if champion is None:
        return Both(parts["test"], parts.get("recent"), dataset.classes, None, [])
    package = loaded(champion)
    everywhere = np.concatenate(list(rows.values()))
    asked = probabilities(champion, package, dataset, everywhere, raw=winner.raw, incoming=winner.incoming)
    seen = is_seen(dataset.index().iloc[everywhere], _seen(winner, champion, reference))
    start = 0
    for split, scored in parts.items():
        own = slice(start, start := start + len(scored.labels))
        answers = Answers.of(asked[own], classes=package.classes, labels=scored.labels)
        parts[split] = replace(scored, champion=answers, comparable=~seen[own] if seen[own].any() else None)
    test = replace(parts["test"], slices=test_slices(dataset, rows["test"], by=slices))
    if reference is not None:
        held = loaded(reference)
        asked = probabilities(reference, held, dataset, rows["test"], raw=winner.raw, incoming=winner.incoming)
        test = replace(test, reference=Answers.of(asked, classes=held.classes, labels=test.labels))
    n_seen = int(np.count_nonzero(seen))
    return Both(test, parts.get("recent"), dataset.classes, package.classes, _remarks(winner, champion, n_seen=n_seen))


def _seen(winner: Winner, *versions: Version | None) -> np.ndarray:
    seen = read_seen_ids(winner.seen)
    for version in versions:
        if version is not None and (others := seen_by(version)) is not None:
            seen = np.union1d(seen, others)
    return seen


def _remarks(winner: Winner, champion: Version, *, n_seen: int) -> list[str]:
    remarks = []
    if champion.tags.get("test_ids_sha256") != winner.test_ids_sha256:
        remarks.append("The test set has changed since the champion's promotion; both models were scored again.")
        if f"{SHA256}{SEEN}" not in champion.tags:
            remarks.append(
                f"Version {champion.version} does not say which images it was trained on; it may have seen some of "
                "these, which is to its advantage."
            )
    elif champion.tags.get("test_labels_sha256", winner.test_labels_sha256) != winner.test_labels_sha256:
        remarks.append(
            "Labels of test images were corrected since the champion's promotion; both models were scored on the new "
            "ones."
        )
    if n_seen:
        remarks.append(f"{n_seen} images were not compared: one of the models was trained or tuned on them.")
    return remarks
