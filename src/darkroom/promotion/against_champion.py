"""The gates `champion` and `champion_recent`, which compare the candidate with the champion. Pure."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from darkroom.evaluation.metrics import paired
from darkroom.project.text import ordinal
from darkroom.promotion.answers import Answers, Scored
from darkroom.promotion.gates import Verdict, not_applicable, percent, points, verdict
from darkroom.promotion.params import ChampionGate

MEASURES = {"accuracy": "accuracy", "brier": "Brier score", "log_loss": "log loss"}


def champion(
    images: Scored, *, rule: ChampionGate, n_comparisons: int, n_tests: int = 1, least: int = 1, of: str = "test images"
) -> Verdict:
    """Return whether the candidate may replace the champion, by their answers on the same images.

    With margin 0 the candidate must be significantly better. The rule's alpha is the probability that chance promotes
    any candidate in all planned comparisons on this test set, so each comparison is made at level alpha / comparisons
    (Bonferroni), one-sided. That is valid however the comparisons depend on each other, and the level does not fall
    with their number (benchmarks/promotion.py compares alternatives). At level 1 any gain counts.

    The statistic is McNemar's test of the accuracies, or a paired t-test of Brier score or log loss, which detect
    smaller gains; with these, the candidate's accuracy must not be lower than the champion's either.

    A margin above 0 is for candidates that are wanted for another reason (smaller, faster): the lower end of the 95 %
    interval of the difference must not be below -margin. That also applies to the difference from the reference, if
    there is one, because the champion itself may be worse than it by the margin.

    Args:
        images: candidate, champion, and the reference if there is one.
        n_comparisons: number of comparisons on this test set, including this one.
        n_tests: number of sets of images on which candidate and champion are compared; they share alpha.
        least: minimum number of images that neither model has seen; with fewer there is no verdict.
        of: name of the images.
    """
    compared = images.compared()
    n_images, current = len(compared.labels), compared.champion
    if current is None:
        return not_applicable("There is no champion yet.")
    if images.comparable is not None and n_images < least:
        return verdict(
            False,
            f"Of {len(images.labels)} {of} only {n_images} were not seen by either model in training or tuning, too "
            f"few for a comparison with the champion (minimum: {least}): preprocess.seed was changed, or images moved "
            "between the splits when others joined the dataset; go back to the seed, add images, or register under "
            "another name (promote.registered_model).",
            n_images=n_images,
        )
    level = rule.alpha / rule.comparisons / n_tests
    numbers = {
        **_measured(compared.candidate, current, rule.statistic, level=level),
        "statistic": rule.statistic,
        "alpha": rule.alpha,
        "comparisons": rule.comparisons,
        "n_comparisons": n_comparisons,
        "level": level,
        "margin": rule.margin,
    }
    difference, p_value = numbers["difference"], numbers["p_value"]
    lost, gained = numbers["n_only_champion_correct"], numbers["n_only_candidate_correct"]
    better = difference > 0 if rule.statistic == "accuracy" else difference >= 0
    numbers["gain"] = gain = better and p_value <= level
    numbers["loss"] = lost > gained and paired.gain_p_value(lost, gained)[0] <= rule.alpha
    needed = math.ceil(-math.log2(level))  # all to one side, the exact p-value of n disagreements is 1 / 2^n
    numbers["too_few_disagreements"] = rule.statistic == "accuracy" and gained + lost < needed and not gain
    said = _said(numbers, of=of)
    if rule.margin:
        passed, kept = _within_margin(compared, numbers)
        return verdict(passed, f"{said}{kept}.", **numbers)
    return verdict(gain, f"{said}{_by_chance(numbers, needed=needed)}.", **numbers)


def jointly(test: Verdict, recent: Verdict) -> tuple[Verdict, Verdict]:
    """Return the verdicts on test set and recent images as they decide together.

    No significant loss is allowed on either of them, and a significant gain on one is enough; but a margin must be kept
    on the test set, whatever the recent images say.
    """
    if "gain" not in recent.numbers:
        return test, recent
    lost = recent.numbers["loss"]
    recent = replace(recent, status="failed" if lost else "passed")
    if test.numbers.get("margin"):
        counts = (
            "The loss on the recent images decides." if lost else "On recent images only a significant loss counts."
        )
        return test, replace(recent, sentence=f"{recent.sentence} {counts}")
    if test.status == "failed" and test.numbers.get("loss") is False and recent.numbers["gain"]:
        decided = "The gain on the recent images decides; on the test set nothing is lost significantly."
        return replace(test, status="passed", sentence=f"{test.sentence} {decided}"), recent
    if lost:
        decided = "The loss on the recent images decides."
        return test, replace(recent, sentence=f"{recent.sentence} {decided}")
    return test, recent


def used_up(verdict: Verdict) -> str | None:
    """Return the warning that more comparisons were made on the test set than planned, None if they were not."""
    planned, made = (verdict.numbers.get(key, 0) for key in ("comparisons", "n_comparisons"))
    if made <= planned or verdict.numbers["margin"]:
        return None
    return (
        f"The comparisons planned on this test set ({planned}) are used up; this is the {ordinal(made)}: a false "
        f"promotion is now more likely than alpha {verdict.numbers['alpha']:g}; take new test images, or plan more "
        "comparisons (promote.gates.champion.comparisons)."
    )


def _measured(candidate: Answers, current: Answers, statistic: str, *, level: float) -> dict[str, Any]:
    counts = paired.table(candidate.correct, current.correct)
    if statistic == "accuracy":
        p_value, form = paired.gain_p_value(counts.only_a, counts.only_b)
        gains, extra = candidate.correct.astype(float) - current.correct, {}
    else:
        ours, theirs = getattr(candidate, statistic), getattr(current, statistic)
        p_value, form = paired.mean_gain_p_value(ours, theirs), "paired t"
        gains = theirs - ours
        extra = {f"candidate_{statistic}": float(ours.mean()), f"champion_{statistic}": float(theirs.mean())}
    accuracy = float(candidate.correct.mean())
    return {
        "n_images": counts.n_images,
        "candidate_accuracy": accuracy,
        "candidate_accuracy_corrected": accuracy - paired.overstated_accuracy(candidate.correct, gains, level=level),
        "champion_accuracy": float(current.correct.mean()),
        "difference": counts.difference,
        "difference_ci95": list(paired.difference_interval(counts)),
        "n_both_correct": counts.both,
        "n_only_candidate_correct": counts.only_a,
        "n_only_champion_correct": counts.only_b,
        "n_both_wrong": counts.neither,
        **extra,
        "test": form,
        "p_value": p_value,
    }


def _within_margin(compared: Scored, numbers: dict[str, Any]) -> tuple[bool, str]:
    """Return whether the margin is certain to be kept, and the end of the sentence; adds to the numbers."""
    margin = numbers["margin"]
    lows = [numbers["difference_ci95"][0]]
    said = f"the difference is {_interval(numbers)}"
    if compared.reference is not None:
        counts = paired.table(compared.candidate.correct, compared.reference.correct)
        numbers["reference_difference"] = counts.difference
        numbers["reference_difference_ci95"] = list(paired.difference_interval(counts))
        lows.append(numbers["reference_difference_ci95"][0])
        said += f", from the reference {_interval(numbers, of='reference_')}"
    passed = all(low >= -margin for low in lows)
    numbers["beats_reference"] = lows[-1] > 0
    keeps = "keeps" if passed else "is not certain to stay within"
    return passed, f"; {said}, which {keeps} the margin of {100 * margin:g} points"


def _said(numbers: Mapping[str, Any], *, of: str) -> str:
    """Return the beginning of the sentence: who is right where, and by the other statistic if there is one."""
    gained, lost, n_images = (
        numbers[key] for key in ("n_only_candidate_correct", "n_only_champion_correct", "n_images")
    )
    if gained + lost == 0:
        said = (
            f"Candidate and champion make the same errors on {n_images} {of} ({percent(numbers['champion_accuracy'])})"
        )
    else:
        relation = "better than" if gained > lost else "worse than" if gained < lost else "as good as"
        said = (
            f"The candidate ({percent(numbers['candidate_accuracy'])}) is {relation} the champion "
            f"({percent(numbers['champion_accuracy'])}) on the same {n_images} {of}: only the candidate is correct on "
            f"{gained}, only the champion on {lost}"
        )
    if (name := numbers["statistic"]) == "accuracy":
        return said
    ours, theirs = numbers[f"candidate_{name}"], numbers[f"champion_{name}"]
    return f"{said}; its {MEASURES[name]} is {ours:.4f}, the champion's {theirs:.4f}"


def _by_chance(numbers: Mapping[str, Any], *, needed: int) -> str:
    """Return the end of the sentence: what chance explains."""
    planned = numbers["comparisons"] > 1
    level = f"{numbers['level']:.3g}"
    count = f"{ordinal(numbers['n_comparisons'])} of {numbers['comparisons']} planned comparisons on this test set"
    if numbers["statistic"] == "accuracy":
        if numbers["n_only_candidate_correct"] + numbers["n_only_champion_correct"] == 0:
            return ", so the champion stays"
        if numbers["too_few_disagreements"]:
            at = f"{level} ({count})" if planned else level
            least = f"at least {needed} are needed at level {at}"
            return f"; not significant, too few disagreements ({least}), so the champion stays"
        test = f"one-sided {numbers['test']} McNemar test"
    else:
        test = "one-sided paired t-test"
    significant = numbers["p_value"] <= numbers["level"]
    chance, sign = ("more than", "<=") if significant else ("within", ">")
    found = f"{test}, p = {numbers['p_value']:.3g} {sign} {level}{f'; {count}' if planned else ''}"
    stays = "" if numbers["gain"] or not significant else ", but its accuracy is lower, so the champion stays"
    if numbers["gain"]:
        stays = f". Corrected for its selection, its accuracy is {percent(numbers['candidate_accuracy_corrected'])}"
    return f"; the difference, {_interval(numbers)}, is {chance} chance ({found}){stays}"


def _interval(numbers: Mapping[str, Any], *, of: str = "") -> str:
    low, high = numbers[f"{of}difference_ci95"]
    return f"{points(numbers[f'{of}difference'])} points (95 % interval {points(low)} to {points(high)})"
