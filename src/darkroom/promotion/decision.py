"""Decide whether a candidate replaces the champion. Pure: arrays in, a decision with its reasons out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darkroom.errors import DataError
from darkroom.promotion import against_champion, gates
from darkroom.promotion.answers import Scored
from darkroom.promotion.gates import Verdict, not_applicable
from darkroom.promotion.params import ClassFloor, Gates

SAID = ("min_test_accuracy", "champion")  # always among the reasons; other gates only if failed or unclear
COMPARING = ("champion", "champion_recent", "class_recall", "slice_accuracy")
NO_CHAMPION = "There is no champion yet."
LATENCY = "latency of one image (p95)"


@dataclass(frozen=True)
class Decision:
    """The decision, its reasons (full sentences with numbers), and every gate's result as plain values for JSON.

    Attributes:
        tests: per gate {status: passed | failed | not_applicable | off, sentence, and its numbers}.
        needs_approval: the reasons, if any, why a person must approve a candidate that passes all gates.
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

    Without a champion, gates that compare with it do not apply. Parity does not apply yet: it is a property of the
    registered version, which is created only after all other gates are passed.

    Args:
        test: both models on the test set.
        recent: both models on the recent images, None if there are none.
        classes, champion_classes: of the candidate and of the champion; None: there is no champion.
        metrics: of the candidate, from evaluation.json; only those with a limit are used.
        n_comparisons: number of comparisons of candidates with a champion on this test set, including this one.

    Raises:
        DataError: no images, arrays differ in shape, or a metric with a limit is missing.
    """
    correct = test.candidate.correct
    if correct.ndim != 1 or len(correct) == 0:
        raise DataError(f"the candidate was scored on an array of shape {correct.shape}, expected (n,) with n >= 1")
    for scored in (test, recent) if recent else (test,):
        if scored.labels.shape != scored.candidate.correct.shape:
            shape, n_images = scored.labels.shape, len(scored.candidate.correct)
            raise DataError(f"got labels of shape {shape} for {n_images} images")
    known = classes if champion_classes is None else champion_classes
    new, lost = sorted(set(classes) - set(known)), sorted(set(known) - set(classes))
    verdicts = {
        **_alone(test, recent, classes=classes, new=new, metrics=metrics, rule=rule),
        **_comparing(test, recent, rule=rule, n_comparisons=n_comparisons),
    }
    verdicts = {name: verdicts[name] for name in Gates.model_fields}
    promote = all(verdict.status != "failed" for verdict in verdicts.values())
    needs_approval = _about_lost(lost)
    return Decision(
        promote,
        [*_reasons(verdicts, new=new), *needs_approval],
        {name: verdict.as_dict() for name, verdict in verdicts.items()},
        needs_approval,
    )


def _about_lost(lost: Sequence[str]) -> list[str]:
    if not lost:
        return []
    return [f"The champion knows {gates.listed(lost)}, the candidate does not; losing a class needs an approval."]


def _alone(
    test: Scored,
    recent: Scored | None,
    *,
    classes: Sequence[str],
    new: Sequence[str],
    metrics: Mapping[str, float],
    rule: Gates,
) -> dict[str, Verdict]:
    """Return the verdicts of the gates on the candidate alone, on all images."""
    correct, labels = test.candidate.correct, test.labels
    if recent:
        correct = np.concatenate([correct, recent.candidate.correct])
        labels = np.concatenate([labels, recent.labels])

    def floor_of(names: Sequence[str], gate: ClassFloor, *, of: str) -> Verdict:
        if not names:
            return not_applicable("There is no class that the champion does not know.")
        return gates.recall_of(correct, labels, names, of=of, **gate.model_dump())

    asked: dict[str, Callable[[Any], Verdict]] = {
        "min_test_images": lambda limit: gates.enough_images(len(test.labels), limit=limit),
        "min_test_accuracy": lambda limit: gates.floor(test.candidate.correct, limit=limit),
        "every_class": lambda gate: floor_of(classes, gate, of="class"),
        "new_class": lambda gate: floor_of(new, gate, of="new class"),
        "max_ece": lambda limit: _at_most("ece", metrics, limit, what="expected calibration error"),
        "max_error_answered": lambda limit: _error_answered(metrics, limit),
        "min_answered": lambda limit: gates.at_least(
            "share_answered", _known("share_answered", metrics), limit=limit, what="share of test images answered"
        ),
        "min_coverage": lambda limit: _coverage(metrics, limit),
        "max_latency_ms_p95": lambda limit: _at_most("latency_ms_p95", metrics, limit, what=LATENCY, unit=" ms"),
        "max_model_bytes": lambda limit: _at_most("model_bytes", metrics, limit, what="model of", unit=" bytes"),
        "max_parity_difference": lambda _: not_applicable(
            "Parity is checked on the registered version; nothing is registered yet."
        ),
    }
    return {name: _asked(name, ask, rule) for name, ask in asked.items()}


def _comparing(test: Scored, recent: Scored | None, *, rule: Gates, n_comparisons: int) -> dict[str, Verdict]:
    """Return the verdicts of the gates that compare with the champion, on images that neither model has seen."""
    if test.champion is None:
        return {name: _asked(name, lambda _: not_applicable(NO_CHAMPION), rule) for name in COMPARING}
    on_recent = _recent_verdict(recent, rule=rule, n_comparisons=n_comparisons)
    asked: dict[str, Callable[[Any], Verdict]] = {
        "champion": lambda gate: against_champion.champion(
            test,
            rule=gate,
            n_comparisons=n_comparisons,
            n_tests=1 + ("gain" in on_recent.numbers),
            least=max(1, (rule.min_test_images or 1) // 2),  # a few move when images join the dataset
        ),
        "champion_recent": lambda _: on_recent,
    }
    compared = test.compared()
    if compared.champion is not None and len(compared.labels):
        candidate, champion = compared.candidate.correct, compared.champion.correct
        asked["class_recall"] = lambda gate: gates.class_recall(
            candidate, champion, compared.labels, **gate.model_dump()
        )
        asked["slice_accuracy"] = lambda gate: gates.slice_accuracy(
            candidate, champion, compared.slices, **gate.model_dump(exclude={"by"})
        )
    nothing = not_applicable("There are no images that neither model has seen.")
    verdicts = {name: _asked(name, asked.get(name, lambda _: nothing), rule) for name in COMPARING}
    jointly = against_champion.jointly(verdicts["champion"], verdicts["champion_recent"])
    return {**verdicts, **dict(zip(("champion", "champion_recent"), jointly, strict=True))}


def _recent_verdict(recent: Scored | None, *, rule: Gates, n_comparisons: int) -> Verdict:
    if rule.champion is None or rule.champion_recent is None or recent is None:
        return not_applicable("There are no recent images.")
    least, n_images = rule.champion_recent.min_images, len(recent.compared().labels)
    if n_images < least:
        return not_applicable(
            f"There are {n_images} recent images that neither model has seen, too few for a comparison "
            f"(minimum: {least})."
        )
    return against_champion.champion(
        recent, rule=rule.champion, n_comparisons=n_comparisons, n_tests=2, of="recent images"
    )


def _asked(name: str, ask: Callable[[Any], Verdict], rule: Gates) -> Verdict:
    gate = getattr(rule, name)
    return gates.off(name) if gate is None else ask(gate)


def _at_most(name: str, metrics: Mapping[str, float], limit: float, *, what: str, unit: str = "") -> Verdict:
    return gates.at_most(name, _known(name, metrics), limit=limit, what=what, unit=unit)


def _error_answered(metrics: Mapping[str, float], limit: float) -> Verdict:
    if _known("error_answered", metrics) is None:
        return not_applicable("The candidate answers no test image, so none of its answers is wrong.")
    return _at_most("error_answered", metrics, limit, what="share of wrong answers among those given")


def _coverage(metrics: Mapping[str, float], limit: float) -> Verdict:
    if "coverage" not in metrics:
        missing = "The candidate has no prediction sets; set `sets` of train, or promote.gates.min_coverage to null."
        return gates.verdict(False, missing, min_coverage=limit)
    what = "share of test images with the true class in the prediction set"
    return gates.at_least("coverage", metrics["coverage"], limit=limit, what=what)


def _known(name: str, metrics: Mapping[str, float]) -> float:
    if name not in metrics:
        raise DataError(f"the evaluation has no {name}, which promote limits; run `dvc repro --force evaluate`")
    return metrics[name]


def _reasons(verdicts: Mapping[str, Verdict], *, new: Sequence[str]) -> list[str]:
    """Return minimum accuracy and comparison in full, other failed or unclear gates, and the names of the rest."""
    others = {name: verdict for name, verdict in verdicts.items() if name not in SAID}
    recent = others["champion_recent"]
    reasons = [verdicts[name].sentence for name in SAID]
    if recent.status in ("passed", "failed"):
        reasons.append(others.pop("champion_recent").sentence)
    reasons += [
        verdict.sentence
        for verdict in others.values()
        if verdict.status == "failed" or verdict.numbers.get("cannot_tell")
    ]
    if warning := against_champion.used_up(verdicts["champion"]):
        reasons.append(warning)
    if passed := [name for name, verdict in others.items() if verdict.status == "passed"]:
        reasons.append(f"Also passed: {', '.join(map(gates.in_words, passed))}.")
    if new:
        reasons.append(f"The champion does not know {gates.listed(new)}; their images count as its errors.")
    return reasons
