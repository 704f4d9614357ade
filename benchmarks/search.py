"""Does a search choose better values, learn from failures, and rank trials as full trainings do?

    DARKROOM_MIRROR=folder python -m benchmarks.search      # half an hour on 2 cores
    python -m benchmarks.search --parts choice failures     # 3 minutes; simulations, without training

choice: simulated answers on validation images. One trial, `best`, is truly better than trial 0 by `gain`; the two
    disagree on a share of the images. The other rivals are as good as trial 0, and disagree with it as much. How often
    is `best` chosen, and how often another one? By `choose` (paired, max-t); by McNemar's exact test, Bonferroni-
    corrected for the number of rivals; and by a test of two proportions, which ignores the pairs, corrected likewise.
    Without a gain nothing should be chosen in more than 5 % (alpha).
failures: an artificial objective over learning rates from 0.001 to 1000, which diverges above 0.5. These trials are
    reported to TPE as the worst, as Search does, or as failed, which TPE ignores. How many of 30 trials diverge, and
    how good is the best one? Means of 40 seeds.
fidelity: the candidate cnn of the preset `folder` on CIFAR-10 images (see tuning_peers.py), with random learning rate,
    weight decay and dropout. Which cheap training ranks the draws like the full one? Spearman's rank correlation with
    the best validation accuracy of the full training: for a schedule of a quarter of the epochs; for a fifth of the
    images; and for the full training after a quarter and after three quarters of its epochs, as a pruner sees it.
    regret_points: full accuracy of the best draw minus that of the draw that the cheap training ranks first.
"""

import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from statistics import NormalDist, mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.stats import binomtest, spearmanr

from benchmarks.record import arguments, report

PARTS = ("choice", "failures", "fidelity")
ALPHA = 0.05
CASES = (  # validation images, accuracy of trial 0, gain of `best`, share of images on which the two disagree, rivals
    (1000, 0.72, 0.04, 0.20, 29),
    (1000, 0.72, 0.06, 0.20, 29),
    (6000, 0.985, 0.004, 0.012, 5),
    (173, 0.954, 0.02, 0.05, 7),
    (100, 0.85, 0.06, 0.16, 29),
    (1000, 0.72, 0.0, 0.20, 29),
    (6000, 0.985, 0.0, 0.012, 5),
    (100, 0.85, 0.0, 0.16, 29),
)
SPACE = {"learning_rate": (0.005, 0.5), "optimizer.weight_decay": (0.0001, 0.005), "architecture.dropout": (0.0, 0.5)}
LOG = ("learning_rate", "optimizer.weight_decay")


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=400, help="of each case of the part choice")
    parser.add_argument("--draws", type=int, default=12, help="of the part fidelity")
    parser.add_argument("--per-class", type=int, default=600, help="number of images, a sixth of them for validation")
    parser.add_argument("--epochs", type=int, default=8, help="of a whole training of the part fidelity")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if "choice" in options.parts:
        result["choice"] = [choice(*case, repetitions=options.repetitions) for case in CASES]
    if "failures" in options.parts:
        result["failures"] = {
            how: failures(is_worst=how == "told as the worst") for how in ("told as the worst", "as failed")
        }
    if "fidelity" in options.parts:
        result["fidelity"] = fidelity(n_draws=options.draws, epochs=options.epochs, n_per_class=options.per_class)
    report("search", result, packages=["optuna", "tensorflow", "keras"], save=options.save, parts=PARTS)


# Choice


def choice(
    n_images: int, accuracy: float, gain: float, disagreement: float, n_rivals: int, *, repetitions: int
) -> dict[str, Any]:
    """Return how often `best` is chosen, and how often another."""
    from darkroom.training.answers import packed
    from darkroom.tuning.choice import choose
    from darkroom.tuning.rows import TrialRow

    rng = np.random.default_rng(0)
    gains = np.zeros((n_rivals, 1))
    gains[0] = gain
    taken: dict[str, list[int]] = {"choose": [], "mcnemar": [], "unpaired": []}
    for _ in range(repetitions):
        base = rng.random(n_images) < accuracy
        lost = rng.random((n_rivals, n_images)) < (disagreement - gains) / 2 / accuracy
        won = rng.random((n_rivals, n_images)) < (disagreement + gains) / 2 / (1 - accuracy)
        rivals = np.where(base, ~lost, won)
        rows = []
        for number, right in enumerate([base, *rivals]):
            known = TrialRow(number, "complete", {}, {"val_accuracy": right.mean()}, {}, True, *[None] * 5)  # type: ignore[arg-type]
            rows.append(TrialRow(**{**vars(known), "is_baseline": number == 0, "right": packed(right)}))
        taken["choose"].append(choose(rows, objectives=["val_accuracy"], alpha=ALPHA).number or 0)
        most = int(rivals.mean(axis=1).argmax())
        only, other = int((rivals[most] & ~base).sum()), int((base & ~rivals[most]).sum())
        p_value = binomtest(only, only + other, alternative="greater").pvalue if only + other else 1.0
        taken["mcnemar"].append(most + 1 if p_value <= ALPHA / n_rivals else 0)
        noise = math.sqrt(sum((right.mean() * (1 - right.mean()) + 1e-9) / n_images for right in (base, rivals[most])))
        is_beyond = rivals[most].mean() - base.mean() > NormalDist().inv_cdf(1 - ALPHA / n_rivals) * noise
        taken["unpaired"].append(most + 1 if is_beyond else 0)
    case = {
        "n_images": n_images,
        "accuracy": accuracy,
        "gain": gain,
        "disagreement": disagreement,
        "n_rivals": n_rivals,
    }
    shares = {
        how: {
            **({"best": round(mean(number == 1 for number in numbers), 3)} if gain else {}),
            "wrong": round(mean(number > (1 if gain else 0) for number in numbers), 3),
        }
        for how, numbers in taken.items()
    }
    return {**case, **shares}


# Failures


def failures(*, is_worst: bool, n_trials: int = 30, n_seeds: int = 40) -> dict[str, float]:
    """Return the number of diverged trials and the best value, as means over the seeds."""
    import optuna

    from darkroom.tuning.plan import Plan
    from darkroom.tuning.space.syntax import parse
    from darkroom.tuning.study import Outcome, Search

    space = parse({"learning_rate": {"float": [0.001, 1000.0], "log": True}, "dropout": {"float": [0.0, 0.5]}})
    n_diverged, best = [], []
    for seed in range(n_seeds):
        plan = Plan(
            sampler="tpe", pruner="none", seed=seed, objectives=("val_accuracy",), limits={}, n_startup_trials=7
        )
        with (
            TemporaryDirectory() as folder,
            Search(
                "s",
                storage=f"{folder}/journal",
                space=space,
                plan=plan,
                baseline={"learning_rate": 0.01, "dropout": 0.1},
                about="a",
                rename="t",
            ) as search,
        ):
            values = []
            for _ in range(n_trials):
                drawn = search.ask()
                assert drawn is not None
                rate, dropout = drawn.overrides["learning_rate"], drawn.overrides["dropout"]
                value = 0.9 - 0.05 * (math.log10(rate) + 1) ** 2 - 0.1 * (dropout - 0.25) ** 2
                values.append(value if rate <= 0.5 else 0.0)
                if rate <= 0.5:
                    search.tell(drawn.number, Outcome("complete", {"val_accuracy": value}))
                elif is_worst:
                    search.tell(drawn.number, Outcome("failed", {}, reason="diverged"))
                else:
                    search._study.tell(drawn.number, state=optuna.trial.TrialState.FAIL)
        n_diverged.append(values.count(0.0))
        best.append(max(values))
    return {"n_trials": n_trials, "n_diverged": round(mean(n_diverged), 1), "best": round(mean(best), 4)}


# Fidelity


def fidelity(*, n_draws: int, epochs: int, n_per_class: int) -> dict[str, Any]:
    """Return how well cheap trainings rank random draws."""
    from benchmarks.few_photographs import take_photographs
    from benchmarks.mnist import clone, seconds, use
    from benchmarks.tuning_peers import ARCHIVE, N_TEST, PRESET, changes

    mirror = Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve()
    if not (mirror / ARCHIVE).is_file():
        return {"skipped": f"{ARCHIVE} is not in DARKROOM_MIRROR"}
    with clone() as root:
        take_photographs(mirror / ARCHIVE, root / "pictures", n_train=n_per_class, n_test=N_TEST)
        settings = Namespace(minutes=None, trial_epochs=None, epochs=epochs, fraction=1.0, learning_rate=0.05)
        use(root, PRESET, changes(settings, seed=7))
        seconds(root, "dvc", "repro", "embed")
        with chdir(root):
            curve_of = trainer(root)
            found: dict[str, list[float]] = {}
            for number, values in enumerate(drawn(n_draws)):
                whole = curve_of(values, epochs, 1.0)
                scores = {
                    "whole": max(whole),
                    "a quarter of the epochs, whole schedule": max(curve_of(values, epochs // 4, 1.0)),
                    "a fifth of the images, whole schedule": max(curve_of(values, epochs, 0.2)),
                    "a quarter of the whole training": whole[epochs // 4 - 1],
                    "three quarters of the whole training": whole[3 * epochs // 4 - 1],
                }
                print(f"draw {number}: {values}: {scores}", file=sys.stderr, flush=True)
                for name, score in scores.items():
                    found.setdefault(name, []).append(round(score, 4))
    whole = found.pop("whole")
    compared = {
        name: {
            "rank_correlation": round(float(spearmanr(scores, whole).statistic), 2),
            "regret_points": round(100 * (max(whole) - whole[int(np.argmax(scores))]), 2),
            "val_accuracies": scores,
        }
        for name, scores in found.items()
    }
    return {"n_draws": n_draws, "epochs": epochs, "images_per_class": n_per_class, "val_accuracies": whole, **compared}


def drawn(n: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)

    def one(low: float, high: float, *, log: bool) -> float:
        return float(np.exp(rng.uniform(math.log(low), math.log(high))) if log else rng.uniform(low, high))

    return [{key: one(*ends, log=key in LOG) for key, ends in SPACE.items()} for _ in range(n)]


def trainer(root: Path) -> Callable[[dict[str, float], int, float], list[float]]:
    """Return a function that trains with given values for some epochs on a fraction of the images: the curve."""
    from darkroom.project.console import loading_keras
    from darkroom.project.params import read_params
    from darkroom.training import overrides
    from darkroom.training.opened import open_data

    data = root / "data"
    opened = open_data(data / "prepared", data / "augmented", data / "features")
    base = read_params(root / "params.yaml")["train"]["cnn"]
    with loading_keras():
        from darkroom.training.candidate import train_candidate

    def curve_of(values: dict[str, float], epochs: int, fraction: float) -> list[float]:
        recipe = overrides.apply(base, {**values, "epochs": epochs})
        trained = train_candidate(recipe, data=opened.data, image_shape=opened.image_shape, fraction=fraction)
        return [row["val_accuracy"] for row in trained.progress.history]

    return curve_of


if __name__ == "__main__":
    main()
