"""Does the gate `champion` promote by chance within a year, and does it promote better recipes? Real predictions.

    DARKROOM_MIRROR=folder python -m benchmarks.promotion             # about 20 minutes on 2 cores
    DARKROOM_MIRROR=folder python -m benchmarks.promotion --models 30 10 --years 5    # a trial run

Hundreds of models (real_answers.py) classify all images of a dataset that none of them was trained on. Each simulated
year draws a test set from these images; the others give the true accuracy. In a year without news every night has a new
model of the champion's recipe, with another seed and other training images; in a year with a better recipe the champion
has the old recipe and every night has a model of the better one, until one is promoted.

any_false: share of years without news in which a model was promoted that is not truly better.
any_promotion: share of years without news in which any model was promoted; a lucky seed can be truly better.
taken_within: share of years in which a model of the better recipe was promoted within this number of nights.
stated_bias: test accuracy of the promoted model minus its true accuracy, in points, mean over the years with a
    promotion; `corrected`: after the correction for the selection (paired.overstated_accuracy); `audit`: on the half of
    the test set that no decision uses, if there is one. The effect of drawing the test set, which is the same for all
    models, is removed by subtracting its effect on other models of the old recipe.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.real_answers import SOURCES, Source, read_recipes
from benchmarks.record import arguments, report
from darkroom.evaluation.metrics import paired
from darkroom.promotion.answers import Answers

ALPHA, NIGHTS = 0.05, 365
PATIENCE = 30  # nights within which a better recipe should be promoted
TEST_SIZES = {"mnist": (10_000, 1_000), "cifar10": (10_000, 1_000), "cats-vs-dogs": (1_000,)}


class Rule(NamedTuple):
    """A decision rule.

    Attributes:
        statistic: accuracy | brier | log_loss; the latter two with an accuracy that is not lower.
        spent: the level of a comparison: "planned", alpha / 365; "nightly", alpha every night; "early", alpha / k(k+1).
        two_sided: the level is shared with losses.
        pooled: whether the mean answer of all nights of the recipe is compared.
        audit: whether half of the test set is not used.
    """

    statistic: str
    spent: str = "planned"
    two_sided: bool = False
    pooled: bool = False
    audit: bool = False

    def level(self, night: int) -> float:
        share = {"planned": 1 / NIGHTS, "nightly": 1.0, "early": 1 / (night * (night + 1))}[self.spent]
        return ALPHA * share / (2 if self.two_sided else 1)


RULES = {
    "accuracy, alpha every night, two-sided": Rule("accuracy", "nightly", two_sided=True),
    "accuracy, alpha / 365, two-sided": Rule("accuracy", two_sided=True),
    "accuracy": Rule("accuracy"),
    "accuracy, alpha / k(k+1)": Rule("accuracy", "early"),
    "accuracy, half for an audit": Rule("accuracy", audit=True),
    "accuracy, pooled": Rule("accuracy", pooled=True),
    "brier": Rule("brier"),
    "brier, half for an audit": Rule("brier", audit=True),
    "brier, pooled": Rule("brier", pooled=True),
    "log_loss": Rule("log_loss"),
}


class Promotion(NamedTuple):
    """A promoted model: the night, its true gain, and the bias of its stated accuracy."""

    night: int
    truly_better: bool
    biases: dict[str, float]


class Year:
    """One draw of a test set and the images for the true accuracy.

    Args:
        old: the models of the old recipe.
        images: (n_pool,), bool: the test set.
    """

    def __init__(self, old: Sequence[Answers], champion: int, images: np.ndarray) -> None:
        self._test, self._truth = np.flatnonzero(images), np.flatnonzero(~images)
        others = [model.correct for number, model in enumerate(old) if number % 12 == champion % 12]
        self._luck = {
            part: float(np.mean([correct[rows].mean() - correct[self._truth].mean() for correct in others]))
            for part, rows in self._parts(audit=True).items()
        } | {"test": float(np.mean([c[self._test].mean() - c[self._truth].mean() for c in others]))}

    def _parts(self, *, audit: bool) -> dict[str, np.ndarray]:
        half = len(self._test) // 2
        return {"read": self._test[:half], "audit": self._test[half:]} if audit else {"test": self._test}

    def nights(self, rule: Rule, champion: Answers, candidates: Sequence[Answers], *, once: bool) -> list[Promotion]:
        """Return the promotions; `once`: the year ends with the first."""
        parts = self._parts(audit=rule.audit)
        read, rows = next(iter(parts.items()))
        promotions: list[Promotion] = []
        total, n_pooled = np.zeros(len(rows)), 0
        for night, candidate in enumerate(candidates, 1):
            ours, theirs = candidate.at(rows), champion.at(rows)
            total, n_pooled = total + _loss(ours, rule.statistic), n_pooled + 1
            gains = _loss(theirs, rule.statistic) - (total / n_pooled if rule.pooled else _loss(ours, rule.statistic))
            if not _better(ours, theirs, gains, rule) or _p_value(ours, theirs, gains, rule) > rule.level(night):
                continue
            biases = {
                part: 100
                * (float(candidate.correct[at].mean() - candidate.correct[self._truth].mean()) - self._luck[part])
                for part, at in parts.items()
            }
            overstated = paired.overstated_accuracy(ours.correct, gains, level=rule.level(night))
            biases = {"raw": biases[read], "corrected": biases[read] - 100 * overstated} | (
                {"audit": biases["audit"]} if rule.audit else {}
            )
            better = candidate.correct[self._truth].mean() > champion.correct[self._truth].mean()
            promotions.append(Promotion(night, bool(better), biases))
            champion, total, n_pooled = candidate, np.zeros(len(rows)), 0
            if once:
                break
        return promotions


def _loss(found: Answers, statistic: str) -> np.ndarray:
    return 1.0 - found.correct if statistic == "accuracy" else np.asarray(getattr(found, statistic), np.float64)


def _better(ours: Answers, theirs: Answers, gains: np.ndarray, rule: Rule) -> bool:
    counts = paired.table(ours.correct, theirs.correct)
    if rule.statistic == "accuracy" and not rule.pooled:
        return counts.only_a > counts.only_b
    return counts.only_a >= counts.only_b and gains.mean() > 0


def _p_value(ours: Answers, theirs: Answers, gains: np.ndarray, rule: Rule) -> float:
    if rule.statistic == "accuracy" and not rule.pooled:
        counts = paired.table(ours.correct, theirs.correct)
        return paired.gain_p_value(counts.only_a, counts.only_b)[0]
    return paired.mean_gain_p_value(-gains, np.zeros(len(gains)))


def measure(name: str, source: Source, recipes: Sequence[Sequence[Answers]], *, n_years: int) -> dict[str, Any]:
    """Return the results of each rule on one dataset, given the models of each recipe."""
    accuracies = [float(np.mean([model.correct.mean() for model in models])) for models in recipes]
    disagreement = float(np.mean(recipes[0][0].correct != recipes[0][1].correct))
    n_pool = len(recipes[0][0].correct)
    found: dict[str, Any] = {
        "n_features": list(source.recipes),
        "mean_accuracy": [round(accuracy, 4) for accuracy in accuracies],
        "two_models_disagree": round(disagreement, 4),
        "gains_in_points": [round(100 * (accuracy - accuracies[0]), 2) for accuracy in accuracies[1:]],
        "n_images": n_pool,
    }
    for n_test in TEST_SIZES[name]:
        size = min(n_test, n_pool // 2)
        found[f"{size} test images"] = {
            called: _of_rule(rule, recipes, n_test=size, n_years=n_years) for called, rule in RULES.items()
        }
        print(name, size, *found[f"{size} test images"].items(), sep="\n  ", file=sys.stderr, flush=True)
    return found


def _of_rule(rule: Rule, recipes: Sequence[Sequence[Answers]], *, n_test: int, n_years: int) -> dict[str, Any]:
    """Return the results of one rule; all rules get the same years."""
    old, *better = recipes
    quiet: list[list[Promotion]] = []
    taken: list[list[list[Promotion]]] = [[] for _ in better]
    for number in range(n_years):
        rng = np.random.default_rng(number)
        images = np.zeros(len(old[0].correct), bool)
        images[rng.permutation(len(images))[:n_test]] = True
        order = rng.permutation(len(old))
        year, champion = Year(old, int(order[0]), images), old[order[0]]
        nights = [old[model] for model in order[1 : NIGHTS + 1]]
        quiet.append(year.nights(rule, champion, nights, once=False))
        for promotions, models in zip(taken, better, strict=True):
            nights = [models[model] for model in rng.permutation(len(models))[:PATIENCE]]
            promotions.append(year.nights(rule, champion, nights, once=True))
    return {
        "any_false": _share(any(not promotion.truly_better for promotion in year) for year in quiet),
        "any_promotion": _share(map(bool, quiet)),
        "stated_bias_without_news": _biases([year[-1] for year in quiet if year]),
        "better": [
            {
                "taken_within": {
                    str(n): _share(bool(year) and year[0].night <= n for year in years) for n in (1, 3, PATIENCE)
                },
                "stated_bias": _biases([year[0] for year in years if year]),
            }
            for years in taken
        ],
    }


def _share(values: Any) -> float:
    return round(float(np.mean(list(values))), 3)


def _biases(promotions: Sequence[Promotion]) -> dict[str, Any]:
    if not promotions:
        return {"n": 0}
    kinds = promotions[0].biases
    return {"n": len(promotions)} | {
        kind: round(float(np.mean([promotion.biases[kind] for promotion in promotions])), 3) for kind in kinds
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--models", type=int, nargs=2, default=[NIGHTS + 1, 60], help="of the old recipe, of a better one"
    )
    parser.add_argument("--answers", type=Path, help="directory in which the answers are kept for later runs")
    parser.add_argument("--years", type=int, default=200)
    parser.add_argument("--datasets", nargs="+", choices=SOURCES, default=list(SOURCES))
    options = parser.parse_args()
    mirror = Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve()
    os.environ["DARKROOM_MIRROR"] = str(mirror)  # a relative path would be relative to the clone
    result: dict[str, Any] = {"alpha": ALPHA, "nights": NIGHTS, "years": options.years}
    for name in options.datasets:
        source = SOURCES[name]
        if source.archive and not (mirror / source.archive).is_file():  # so that `make bench` continues with the others
            print(f"promotion: {name} is skipped; put {source.archive} into DARKROOM_MIRROR", file=sys.stderr)
            continue
        recipes = read_recipes(
            source, n_models=options.models, kept=options.answers and options.answers / f"{name}.npz"
        )
        result[name] = measure(name, source, recipes, n_years=options.years)
    result["target"] = (
        "any_false at most 0.05; stated bias within 0.05 points; with 10,000 test images a gain of 0.5 points taken "
        "within 30 nights in 0.6 of the years, one of 1 point within 3 nights in 0.95"
    )
    packages = ["numpy", "scipy", "onnxruntime", "keras", "opencv-python-headless"]
    report("promotion", result, packages=packages, save=options.save, parts=list(SOURCES))


if __name__ == "__main__":
    main()
