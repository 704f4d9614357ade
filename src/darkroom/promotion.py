"""Decide whether a candidate takes the champion's place. Pure: arrays in, a decision with its reasons out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from darkroom.errors import DataError


@dataclass(frozen=True)
class Rule:
    """What a candidate must reach: accuracies are in [0, 1], alpha is the level of the significance test in (0, 1]."""

    min_test_accuracy: float
    alpha: float


@dataclass(frozen=True)
class Decision:
    """Whether to promote, why (full sentences with numbers), and the tests behind it as plain values for JSON."""

    promote: bool
    reasons: list[str]
    tests: dict[str, Any]


def decide(candidate: np.ndarray, champion: np.ndarray | None, rule: Rule) -> Decision:
    """Return the decision about a candidate from which test images each model classified correctly.

    The candidate is promoted if
      1. its test accuracy reaches `rule.min_test_accuracy`, and
      2. there is no champion, or on the same images the candidate is right more often, by more than chance: McNemar's
         exact test at level `rule.alpha`. With alpha = 1 every gain counts.
    Too few disagreements to tell keep the champion: a series of changes within chance would otherwise move production
    for nothing, and in time downhill.

    Args:
        candidate: (n,), bool: the image was classified correctly.
        champion: (n,), bool, the same images in the same order; None if there is no champion.

    Raises:
        DataError: no images, or the two arrays differ in shape.
    """
    if candidate.ndim != 1 or len(candidate) == 0:
        raise DataError(f"the candidate was scored on an array of shape {candidate.shape}, expected (n,) with n >= 1")
    accuracy = float(candidate.mean())
    reached = accuracy >= rule.min_test_accuracy
    floor = {"test_accuracy": accuracy, "min_test_accuracy": rule.min_test_accuracy, "passed": reached}
    reasons = [
        f"The candidate's test accuracy {_percent(accuracy)} on {len(candidate)} images "
        f"{'reaches' if reached else 'is below'} the floor {_percent(rule.min_test_accuracy)}."
    ]
    if champion is None:
        return Decision(reached, [*reasons, "There is no champion to compare with."], {"floor": floor})
    comparison = compare(candidate, champion, alpha=rule.alpha)
    reasons.append(_sentence(comparison))
    return Decision(reached and comparison["passed"], reasons, {"floor": floor, "mcnemar": comparison})


def compare(candidate: np.ndarray, champion: np.ndarray, *, alpha: float) -> dict[str, Any]:
    """Return McNemar's exact test of two models on the same images (McNemar 1947; exact binomial form, two-sided).

    Only images that one model gets right and the other wrong count: under the null hypothesis each such image falls to
    either side with probability 1/2.

    Args:
        candidate, champion: (n,), bool: the image was classified correctly.

    Raises:
        DataError: the shapes differ.
    """
    from scipy.stats import binomtest  # 1 s; not needed for a first champion

    if candidate.shape != champion.shape:
        raise DataError(f"the candidate was scored on {candidate.shape} images and the champion on {champion.shape}")
    gained = int((candidate & ~champion).sum())
    lost = int((champion & ~candidate).sum())
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return {
        "n_images": len(candidate),
        "candidate_accuracy": float(candidate.mean()),
        "champion_accuracy": float(champion.mean()),
        "n_only_candidate_correct": gained,
        "n_only_champion_correct": lost,
        "p_value": p_value,
        "alpha": alpha,
        "significant": p_value <= alpha,
        "passed": gained > lost and p_value <= alpha,
    }


def _sentence(comparison: dict[str, Any]) -> str:
    gained, lost = comparison["n_only_candidate_correct"], comparison["n_only_champion_correct"]
    if gained + lost == 0:
        return (
            f"Candidate and champion are right and wrong on the same {comparison['n_images']} test images "
            f"({_percent(comparison['champion_accuracy'])}), so the champion stays."
        )
    relation = "better than" if gained > lost else "worse than" if gained < lost else "as good as"
    chance = "more than" if comparison["significant"] else "within"
    sign = "<=" if comparison["significant"] else ">"
    return (
        f"The candidate ({_percent(comparison['candidate_accuracy'])}) is {relation} the champion "
        f"({_percent(comparison['champion_accuracy'])}) on the same {comparison['n_images']} test images: it alone is "
        f"right on {gained}, the champion alone on {lost}; the difference is {chance} chance "
        f"(exact McNemar test, p = {comparison['p_value']:.3g} {sign} {comparison['alpha']:g})."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
