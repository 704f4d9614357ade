"""Decide whether a candidate takes the champion's place. Pure: arrays in, a decision with its reasons out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darkroom.errors import DataError
from darkroom.promotion import gates
from darkroom.promotion.answers import Scored
from darkroom.promotion.gates import Verdict, not_applicable
from darkroom.promotion.params import Gates

SAID = ("min_test_accuracy", "champion")  # always among the reasons; of the other gates only what failed
LATENCY = "latency of one image (p95)"


@dataclass(frozen=True)
class Decision:
    """The decision, its reasons (full sentences with numbers), and every gate's result as plain values for JSON.

    Attributes:
        tests: per gate {status: passed | failed | not_applicable | off, sentence, and its numbers}.
        needs_approval: why a candidate that passes all gates must wait for a person all the same (full sentences).
    """

    promote: bool
    reasons: list[str]
    tests: dict[str, Any]
    needs_approval: list[str] = field(default_factory=list)


def decide(
    test: Scored,
    *,
    recent: Scored | None = None,
    classes: Sequence[str],
    champion_classes: Sequence[str] | None = None,
    metrics: Mapping[str, float],
    rule: Gates,
    n_comparisons: int = 1,
) -> Decision:
    """Return the decision about a candidate: it is promoted if no gate fails.

    Gates that compare with the champion do not apply where there is none. Parity does not apply yet: it is a property
    of the registered version, which exists only once everything else is passed.

    Args:
        test: both models on the test set.
        recent: both models on the recent images, None if there are none.
        classes, champion_classes: that the candidate and the champion know; None: there is no champion.
        metrics: ece, latency_ms_p95 and model_bytes of the candidate; only those with a limit are looked at.
        n_comparisons: of a candidate with a champion on this test set, this one included.

    Raises:
        DataError: no images, arrays differ in shape, or a metric with a limit is missing.
    """
    correct = test.candidate.correct
    if correct.ndim != 1 or len(correct) == 0:
        raise DataError(f"the candidate was scored on an array of shape {correct.shape}, expected (n,) with n >= 1")
    if test.labels.shape != correct.shape:
        raise DataError(f"got labels of shape {test.labels.shape} for {len(correct)} images")
    verdicts = _verdicts(test, metrics=metrics, rule=rule)
    promote = all(verdict.status != "failed" for verdict in verdicts.values())
    return Decision(promote, _reasons(verdicts), {name: verdict.as_dict() for name, verdict in verdicts.items()})


def _verdicts(test: Scored, *, metrics: Mapping[str, float], rule: Gates) -> dict[str, Verdict]:
    candidate, labels, slices = test.candidate.correct, test.labels, test.slices
    champion = test.champion.correct if test.champion else None
    asked: dict[str, Callable[[Any], Verdict]] = {
        "min_test_images": lambda limit: gates.enough_images(len(candidate), limit=limit),
        "min_test_accuracy": lambda limit: gates.floor(candidate, limit=limit),
        "max_ece": lambda limit: _at_most("ece", metrics, limit, what="expected calibration error"),
        "max_latency_ms_p95": lambda limit: _at_most("latency_ms_p95", metrics, limit, what=LATENCY, unit=" ms"),
        "max_model_bytes": lambda limit: _at_most("model_bytes", metrics, limit, what="model of", unit=" bytes"),
        "max_parity_difference": lambda _: not_applicable(
            "Parity is checked on the registered version; nothing is registered yet."
        ),
    }
    comparing: dict[str, Callable[[Any, np.ndarray], Verdict]] = {
        "champion": lambda gate, current: gates.champion(candidate, current, **gate.model_dump()),
        "class_recall": lambda gate, current: gates.class_recall(candidate, current, labels, **gate.model_dump()),
        "slice_accuracy": lambda gate, current: gates.slice_accuracy(
            candidate, current, slices, **gate.model_dump(exclude={"by"})
        ),
    }
    verdicts = {}
    for name in Gates.model_fields:
        gate = getattr(rule, name)
        if gate is None:
            verdicts[name] = gates.off(name)
        elif name in asked:
            verdicts[name] = asked[name](gate)
        elif champion is None:
            verdicts[name] = not_applicable("There is no champion yet.")
        else:
            verdicts[name] = comparing[name](gate, champion)
    return verdicts


def _at_most(name: str, metrics: Mapping[str, float], limit: float, *, what: str, unit: str = "") -> Verdict:
    if name not in metrics:
        raise DataError(f"the evaluation has no {name}, which promote limits; run `dvc repro --force evaluate`")
    return gates.at_most(name, metrics[name], limit=limit, what=what, unit=unit)


def _reasons(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return floor and comparison in full, then whatever else failed, then the names of the rest that passed."""
    others = [(name, verdict) for name, verdict in verdicts.items() if name not in SAID]
    reasons = [verdicts[name].sentence for name in SAID]
    reasons += [verdict.sentence for _, verdict in others if verdict.status == "failed"]
    if passed := [name for name, verdict in others if verdict.status == "passed"]:
        reasons.append(f"Also passed: {', '.join(passed)}.")
    return reasons
