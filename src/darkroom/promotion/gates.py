"""The gates of a promotion, one function each: values and limits in, a verdict with its numbers out. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from darkroom.evaluation.metrics import paired
from darkroom.promotion.slices import Slice

NAMED = 5  # maximum number of classes in a sentence; the numbers have all


@dataclass(frozen=True)
class Verdict:
    """The result of one gate: its status, the reason (a full sentence), and its numbers as plain values for JSON."""

    status: Literal["passed", "failed", "not_applicable", "off"]
    sentence: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return status, sentence and the numbers in one dict."""
        return {"status": self.status, "sentence": self.sentence, **self.numbers}


def in_words(gate: str) -> str:
    """Return the name of a gate for a reader.

    >>> in_words("min_test_images")
    'minimum test images'
    """
    words = {"min": "minimum", "max": "maximum", "ece": "calibration error"}
    return " ".join(words.get(word, word) for word in gate.split("_"))


def off(name: str) -> Verdict:
    """Return the verdict of a gate that is switched off."""
    return Verdict("off", f"The gate {name} is off (promote.gates.{name} is null).")


def not_applicable(sentence: str) -> Verdict:
    """Return the verdict of a gate that does not apply, with the reason."""
    return Verdict("not_applicable", sentence)


def verdict(passed: bool, sentence: str, **numbers: Any) -> Verdict:
    """Return the verdict passed or failed."""
    return Verdict("passed" if passed else "failed", sentence, numbers)


def percent(fraction: float) -> str:
    """Return a fraction in percent, for a sentence."""
    return f"{100 * fraction:.2f} %"


def points(fraction: float) -> str:
    """Return a difference of fractions in percentage points, with its sign."""
    return f"{100 * fraction:+.2f}"


def listed(names: Sequence[str]) -> str:
    """Return the first of some names for a sentence."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def enough_images(n_images: int, *, limit: int) -> Verdict:
    """Return whether there are enough test images for a decision."""
    passed = n_images >= limit
    sentence = (
        f"The test set has {n_images} images, {'enough' if passed else 'too few'} for a decision (minimum: {limit})."
    )
    return verdict(passed, sentence, n_images=n_images, min_test_images=limit)


def floor(correct: np.ndarray, *, limit: float) -> Verdict:
    """Return whether the candidate reaches the minimum accuracy.

    Args:
        correct: (n,), bool: the image was classified correctly.
        limit: minimum accuracy, in [0, 1].
    """
    accuracy = float(correct.mean())
    passed = accuracy >= limit
    sentence = (
        f"The candidate's test accuracy {percent(accuracy)} on {len(correct)} images "
        f"{'reaches' if passed else 'is below'} the minimum {percent(limit)}."
    )
    return verdict(passed, sentence, test_accuracy=accuracy, min_test_accuracy=limit)


def recall_of(
    correct: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, min_recall: float, min_images: int, of: str
) -> Verdict:
    """Return whether each of these classes has enough images and enough recall.

    Args:
        correct: (n,), bool: the image was classified correctly by the candidate.
        labels: (n,), str: the true classes.
        classes: at least one.
        of: their name in the singular: "class" or "new class".
    """
    lines: list[dict[str, Any]] = [
        {
            "name": name,
            "n_images": int(members.sum()),
            "recall": float(correct[members].mean()) if members.any() else None,
        }
        for name, members in ((name, labels == name) for name in classes)
    ]
    few = [line for line in lines if line["n_images"] < min_images]
    low = [line for line in lines if line["recall"] is not None and line["recall"] < min_recall]
    numbers = {"min_recall": min_recall, "min_images": min_images, "classes": lines}
    if not few and not low:
        worst = min(lines, key=lambda line: (line["recall"], line["name"]))
        sentence = (
            f"The lowest recall of {len(lines)}: {_recall(worst)}; the minimum for a {of} is {percent(min_recall)}."
        )
        return verdict(True, sentence, **numbers)
    said = []
    if low:
        named = listed([_recall(line) for line in sorted(low, key=lambda line: (line["recall"], line["name"]))])
        said.append(f"The candidate's recall is below {percent(min_recall)}, the minimum for a {of}: {named}.")
    if few:
        named = listed([_count(line) for line in sorted(few, key=lambda line: (line["n_images"], line["name"]))])
        said.append(
            f"Too few images to test (minimum for a {of}: {min_images}): {named}; add images, or lower "
            f"promote.gates.{'new' if of == 'new class' else 'every'}_class.min_images."
        )
    return verdict(False, " ".join(said), **numbers)


def class_recall(
    candidate: np.ndarray,
    current: np.ndarray,
    labels: np.ndarray,
    *,
    max_drop: float,
    max_unproven_drop: float,
    alpha: float,
) -> Verdict:
    """Return whether no class's recall drops significantly by more than max_drop.

    In a class with few images even a large drop is not significant among many classes. Therefore a drop of more than
    max_unproven_drop also fails if it is significant for that class alone, without the correction.

    Args:
        candidate, current: (n,), bool: the image was classified correctly by the candidate, by the champion.
        labels: (n,), str, the true classes.
        max_drop: in [0, 1].
        alpha: level of the paired exact tests of all classes together (Holm).
    """
    classes = [Slice(str(name), labels == name) for name in np.unique(labels)]
    limits = {"max_drop": max_drop, "max_unproven_drop": max_unproven_drop, "alpha": alpha}
    return _losses(candidate, current, classes, limits, what="recall", of="class", ofs="classes")


def slice_accuracy(
    candidate: np.ndarray,
    current: np.ndarray,
    slices: Sequence[Slice],
    *,
    max_drop: float,
    alpha: float,
    min_images: int,
) -> Verdict:
    """Return whether no slice's accuracy drops significantly by more than max_drop.

    Args:
        candidate, current, max_drop, alpha: see class_recall; the level is that of all slices together.
        slices: those with fewer than min_images images are ignored, because they only weaken the tests of others.
    """
    enough = [part for part in slices if part.members.sum() >= min_images]
    if not enough:
        why = "no attribute in `by` varies" if not slices else f"no slice has {min_images} images"
        return not_applicable(f"There are no slices to compare: {why}.")
    limits = {"max_drop": max_drop, "alpha": alpha}
    return _losses(candidate, current, enough, limits, what="accuracy", of="slice", ofs="slices")


def at_most(name: str, value: float, *, limit: float, what: str, unit: str = "") -> Verdict:
    """Return whether a measured value is at most the limit.

    Args:
        name: of the metric in evaluation.json; also its key in the numbers.
        what, unit: for the sentence, such as "calibration error" and "ms".
    """
    passed = value <= limit
    shown, allowed = (f"{number:,}" if isinstance(number, int) else f"{number:.4g}" for number in (value, limit))
    sentence = f"The candidate's {what} {shown}{unit} is {'within' if passed else 'above'} the limit {allowed}{unit}."
    return verdict(passed, sentence, **{name: value, f"max_{name}": limit})


def at_least(name: str, value: float, *, limit: float, what: str) -> Verdict:
    """Return whether a measured share is at least the limit; for arguments see at_most."""
    passed = value >= limit
    sentence = (
        f"The candidate's {what} {percent(value)} {'reaches' if passed else 'is below'} the minimum {percent(limit)}."
    )
    return verdict(passed, sentence, **{name: value, f"min_{name}": limit})


def parity(difference: float, *, limit: float, n_images: int) -> Verdict:
    """Return whether the registered version reproduces the evaluated probabilities.

    Args:
        difference: largest difference between probabilities of the version, loaded in a clean process, and evaluated
            ones.
    """
    passed = difference <= limit
    sentence = (
        f"Loaded in a clean process, the registered version {'reproduces' if passed else 'does not reproduce'} the "
        f"probabilities of {n_images} test images: maximum difference {difference:.2g} (limit {limit:.2g})."
    )
    return verdict(passed, sentence, n_images=n_images, max_abs_difference=difference, max_parity_difference=limit)


def _losses(
    candidate: np.ndarray,
    current: np.ndarray,
    parts: Sequence[Slice],
    limits: Mapping[str, float],
    *,
    what: str,
    of: str,
    ofs: str,
) -> Verdict:
    """Return the verdict over classes or slices; `numbers` has a line for each, the largest drop first.

    A line's `smallest_provable_drop` is the smallest loss of images, without gains, that would be significant among
    these tests; None: not even the loss of all.
    """
    max_drop, unproven, alpha = limits["max_drop"], limits.get("max_unproven_drop", 1.0), limits["alpha"]
    tables = [paired.table(candidate[part.members], current[part.members]) for part in parts]
    p_values = paired.loss_p_values([table.only_a for table in tables], [table.only_b for table in tables])
    needed = math.ceil(math.log2(len(parts) / alpha))  # all to one side, the exact p-value of n images is 1 / 2^n
    lines = [
        {
            "name": part.name,
            "n_images": table.n_images,
            "candidate": (table.both + table.only_a) / table.n_images,
            "champion": (table.both + table.only_b) / table.n_images,
            "drop": -table.difference,
            "n_only_candidate_correct": table.only_a,
            "n_only_champion_correct": table.only_b,
            "p_value": own,
            "p_value_holm": adjusted,
            "smallest_provable_drop": needed / table.n_images if needed <= table.n_images else None,
            "failed": (-table.difference > max_drop and adjusted <= alpha)
            or (-table.difference > unproven and own <= alpha),
        }
        for part, table, own, adjusted in zip(
            parts, tables, p_values.tolist(), paired.holm(p_values).tolist(), strict=True
        )
    ]
    lines.sort(key=lambda line: (-line["drop"], line["name"]))
    failed = [line for line in lines if line["failed"]]
    unclear = [
        line
        for line in lines
        if max_drop < line["drop"] < (line["smallest_provable_drop"] or math.inf) and not line["failed"]
    ]
    limit = f"{100 * max_drop:g} points, significantly (exact paired tests, Holm-corrected, alpha {alpha:g})"
    if failed:
        if unproven < 1:
            limit += f", or by more than {100 * unproven:g} points, significantly for the class alone"
        named = listed([_drop(line) for line in failed])
        sentence = f"The {what} of {len(failed)} of {len(lines)} {ofs} dropped by more than {limit}: {named}."
    else:
        sentence = (
            f"The {what} of no {of} dropped by more than {limit}; the largest drop of {len(lines)}: {_drop(lines[0])}."
        )
    if unclear:
        sentence += f" Too few images to tell a loss from chance: {listed([_unclear(line) for line in unclear])}."
    return verdict(not failed, sentence, **limits, cannot_tell=[line["name"] for line in unclear], **{ofs: lines})


def _drop(line: Mapping[str, Any]) -> str:
    change = f"{percent(line['champion'])} to {percent(line['candidate'])}"
    return f"{line['name']} ({change}, {line['n_images']} images, p = {line['p_value_holm']:.3g})"


def _unclear(line: Mapping[str, Any]) -> str:
    smallest = line["smallest_provable_drop"]
    least = "no drop can be" if smallest is None else f"a drop must be {100 * smallest:.3g} points or more to be"
    change = f"{percent(line['champion'])} to {percent(line['candidate'])}"
    return f"{line['name']} ({change}; with {line['n_images']} images {least} significant)"


def _recall(line: Mapping[str, Any]) -> str:
    return f"{line['name']} ({percent(line['recall'])}, {line['n_images']} images)"


def _count(line: Mapping[str, Any]) -> str:
    return f"{line['name']} ({line['n_images']})"
