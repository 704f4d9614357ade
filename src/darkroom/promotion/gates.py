"""The gates of a promotion, one function each: measured values and limits in, a verdict with its numbers out. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from darkroom.promotion import paired
from darkroom.promotion.slices import Slice


@dataclass(frozen=True)
class Verdict:
    """The result of one gate: its status, the reason (a full sentence), and its numbers as plain values for JSON."""

    status: Literal["passed", "failed", "not_applicable", "off"]
    sentence: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return status, sentence and the numbers in one dict."""
        return {"status": self.status, "sentence": self.sentence, **self.numbers}


def off(name: str) -> Verdict:
    """Return the verdict of a gate that is switched off."""
    return Verdict("off", f"The gate {name} is off (promote.gates.{name} is null).")


def not_applicable(sentence: str) -> Verdict:
    """Return the verdict of a gate that has nothing to measure, with the reason."""
    return Verdict("not_applicable", sentence)


def enough_images(n_images: int, *, limit: int) -> Verdict:
    """Return whether there are enough test images for a verdict at all."""
    passed = n_images >= limit
    sentence = (
        f"The test set has {n_images} images, {'enough' if passed else 'too few'} for a decision (minimum: {limit})."
    )
    return _verdict(passed, sentence, n_images=n_images, min_test_images=limit)


def floor(correct: np.ndarray, *, limit: float) -> Verdict:
    """Return whether the candidate reaches the absolute floor.

    Args:
        correct: (n,), bool: the image was classified correctly.
        limit: smallest accuracy, in [0, 1].
    """
    accuracy = float(correct.mean())
    passed = accuracy >= limit
    sentence = (
        f"The candidate's test accuracy {_percent(accuracy)} on {len(correct)} images "
        f"{'reaches' if passed else 'is below'} the minimum {_percent(limit)}."
    )
    return _verdict(passed, sentence, test_accuracy=accuracy, min_test_accuracy=limit)


def champion(candidate: np.ndarray, current: np.ndarray, *, margin: float, alpha: float) -> Verdict:
    """Return whether the candidate may take the champion's place by its accuracy on the same images.

    With margin 0 the candidate must be right more often, by more than chance: McNemar's test at level alpha. With
    alpha = 1 every gain counts. Too few disagreements to tell keep the champion: a series of changes within chance
    would otherwise move production for nothing, and in time downhill.

    With a margin above 0, for a candidate that is wanted for another reason (smaller, faster), it must be certain that
    it is at most so much worse: the lower end of the 95 % interval of the difference is not below -margin.

    Args:
        candidate, current: (n,), bool: the image was classified correctly by the candidate, by the champion.
    """
    counts = paired.table(candidate, current)
    p_value, form = paired.mcnemar(counts.only_a, counts.only_b)
    low, high = paired.difference_interval(counts)
    significant = p_value <= alpha
    better = counts.only_a > counts.only_b and significant
    passed = low >= -margin if margin else better
    needed = math.ceil(math.log2(2 / alpha))  # all to one side, the exact p-value of n disagreements is 2 / 2^n
    numbers = {
        "n_images": counts.n_images,
        "candidate_accuracy": float(candidate.mean()),
        "champion_accuracy": float(current.mean()),
        "difference": counts.difference,
        "difference_ci95": [low, high],
        "n_both_correct": counts.both,
        "n_only_candidate_correct": counts.only_a,
        "n_only_champion_correct": counts.only_b,
        "n_both_wrong": counts.neither,
        "test": form,
        "p_value": p_value,
        "alpha": alpha,
        "significant": significant,
        "too_few_disagreements": counts.only_a + counts.only_b < needed and not significant,
        "margin": margin,
    }
    return _verdict(passed, _against_champion(numbers, needed=needed, passed=passed), **numbers)


def class_recall(
    candidate: np.ndarray, current: np.ndarray, labels: np.ndarray, *, max_drop: float, alpha: float
) -> Verdict:
    """Return whether no class's recall is down by more than max_drop, and significantly so.

    Args:
        candidate, current: (n,), bool: the image was classified correctly by the candidate, by the champion.
        labels: (n,), str, the true classes.
        max_drop: in [0, 1]; so much may be lost.
        alpha: level of the paired exact tests of all classes together (Holm).
    """
    classes = [Slice(str(name), labels == name) for name in np.unique(labels)]
    return _losses(
        candidate, current, classes, max_drop=max_drop, alpha=alpha, what="recall", of="class", ofs="classes"
    )


def slice_accuracy(
    candidate: np.ndarray,
    current: np.ndarray,
    slices: Sequence[Slice],
    *,
    max_drop: float,
    alpha: float,
    min_images: int,
) -> Verdict:
    """Return whether no slice's accuracy is down by more than max_drop, and significantly so.

    Args:
        candidate, current, max_drop, alpha: as of `class_recall`; the level is that of all slices together.
        slices: those with fewer than min_images images are left out: they could only lower what is seen in others.
    """
    enough = [part for part in slices if part.members.sum() >= min_images]
    if not enough:
        why = "no attribute in `by` varies" if not slices else f"no slice has {min_images} images"
        return not_applicable(f"There are no slices to compare: {why}.")
    return _losses(
        candidate, current, enough, max_drop=max_drop, alpha=alpha, what="accuracy", of="slice", ofs="slices"
    )


def at_most(name: str, value: float, *, limit: float, what: str, unit: str = "") -> Verdict:
    """Return whether a measured value is at most the limit.

    Args:
        name: of the metric in evaluation.json; also the key of the number.
        what, unit: for the sentence, such as "calibration error" and "ms".
    """
    passed = value <= limit
    shown, allowed = (f"{number:,}" if isinstance(number, int) else f"{number:.4g}" for number in (value, limit))
    sentence = f"The candidate's {what} {shown}{unit} is {'within' if passed else 'above'} the limit {allowed}{unit}."
    return _verdict(passed, sentence, **{name: value, f"max_{name}": limit})


def parity(difference: float, *, limit: float, n_images: int) -> Verdict:
    """Return whether the registered version answers as evaluated.

    Args:
        difference: largest one of a probability, of the version loaded in a clean process from what was evaluated.
    """
    passed = difference <= limit
    sentence = (
        f"Loaded in a clean process, the registered version {'reproduces' if passed else 'does not reproduce'} the "
        f"probabilities of {n_images} test images: maximum difference {difference:.2g} (limit {limit:.2g})."
    )
    return _verdict(passed, sentence, n_images=n_images, max_abs_difference=difference, max_parity_difference=limit)


def _losses(
    candidate: np.ndarray,
    current: np.ndarray,
    parts: Sequence[Slice],
    *,
    max_drop: float,
    alpha: float,
    what: str,
    of: str,
    ofs: str,
) -> Verdict:
    """Return the verdict over classes or slices; `numbers` has a line for each, the largest drop first."""
    tables = [paired.table(candidate[part.members], current[part.members]) for part in parts]
    p_values = paired.loss_p_values([table.only_a for table in tables], [table.only_b for table in tables])
    lines = [
        {
            "name": part.name,
            "n_images": table.n_images,
            "candidate": (table.both + table.only_a) / table.n_images,
            "champion": (table.both + table.only_b) / table.n_images,
            "drop": -table.difference,
            "n_only_candidate_correct": table.only_a,
            "n_only_champion_correct": table.only_b,
            "p_value_holm": p_value,
            "failed": -table.difference > max_drop and p_value <= alpha,
        }
        for part, table, p_value in zip(parts, tables, paired.holm(p_values).tolist(), strict=True)
    ]
    lines.sort(key=lambda line: (-line["drop"], line["name"]))
    failed, worst = [line for line in lines if line["failed"]], lines[0]
    limit = f"{100 * max_drop:g} points, significantly (exact paired tests, Holm-corrected, alpha {alpha:g})"
    if failed:
        named = ", ".join(_drop(line) for line in failed)
        sentence = f"The {what} of {len(failed)} of {len(lines)} {ofs} dropped by more than {limit}: {named}."
    else:
        sentence = (
            f"The {what} of no {of} dropped by more than {limit}; the largest drop of {len(lines)}: {_drop(worst)}."
        )
    return _verdict(not failed, sentence, max_drop=max_drop, alpha=alpha, **{ofs: lines})


def _drop(line: Mapping[str, Any]) -> str:
    change = f"{_percent(line['champion'])} to {_percent(line['candidate'])}"
    return f"{line['name']} ({change}, {line['n_images']} images, p = {line['p_value_holm']:.3g})"


def _against_champion(numbers: Mapping[str, Any], *, needed: int, passed: bool) -> str:
    gained, lost, n_images = (
        numbers[key] for key in ("n_only_candidate_correct", "n_only_champion_correct", "n_images")
    )
    margin, (low, high) = numbers["margin"], numbers["difference_ci95"]
    interval = f"{_points(numbers['difference'])} points (95 % interval {_points(low)} to {_points(high)})"
    if gained + lost == 0:
        said = (
            f"Candidate and champion make the same errors on {n_images} test images "
            f"({_percent(numbers['champion_accuracy'])})"
        )
    else:
        relation = "better than" if gained > lost else "worse than" if gained < lost else "as good as"
        said = (
            f"The candidate ({_percent(numbers['candidate_accuracy'])}) is {relation} the champion "
            f"({_percent(numbers['champion_accuracy'])}) on the same {n_images} test images: only the candidate is "
            "correct on "
            f"{gained}, only the champion on {lost}"
        )
    if margin:
        keeps = "keeps" if passed else "is not certain to stay within"
        return f"{said}; the difference is {interval}, which {keeps} the margin of {100 * margin:g} points."
    if gained + lost == 0:
        return f"{said}, so the champion stays."
    if numbers["too_few_disagreements"]:
        least = f"at least {needed} are needed at alpha {numbers['alpha']:g}"
        return f"{said}; not significant, too few disagreements ({least}), so the champion stays."
    chance, sign = ("more than", "<=") if numbers["significant"] else ("within", ">")
    return (
        f"{said}; the difference, {interval}, is {chance} chance ({numbers['test']} McNemar test, p = "
        f"{numbers['p_value']:.3g} {sign} {numbers['alpha']:g})."
    )


def _verdict(passed: bool, sentence: str, **numbers: Any) -> Verdict:
    return Verdict("passed" if passed else "failed", sentence, numbers)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"
