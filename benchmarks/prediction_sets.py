"""Do prediction sets contain the true class as often as stated, and how large are they? Several ways to make them.

    DARKROOM_MIRROR=folder python -m benchmarks.prediction_sets                  # computes features first: 10 minutes
    DARKROOM_MIRROR=folder python -m benchmarks.prediction_sets --keep features  # and keeps them there for later runs

Heads are solved on the features of 100 to 11,000 training images of CIFAR-10, so that their accuracy varies from low to
high. Half of the other 9,000 images fit the temperature; of the rest, 1,000 calibrate the sets and the others measure
them, in many draws. `of_pairs` has 100 classes: pairs of two images' classes, with the product of their probabilities.

u: as in the paper (Angelopoulos et al. 2020). 0: the probability of the class itself is not added to the mass before
    it, so that the first class is always listed; 1: it is added, and the first class is listed anyway; random: a random
    share is added, likewise.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.audit import make, read
from benchmarks.record import arguments, report
from darkroom.data.arrays.dataset import Dataset
from darkroom.deployable.scores import set_scores
from darkroom.evaluation.metrics.prediction_sets import score_threshold
from darkroom.evaluation.metrics.temperature import fit_temperature, scaled
from darkroom.training.linear_head import log_softmax, solve

COVERAGE = 0.95
N_CALIBRATION = 1000
N_HELD_OUT = 9000
SHAPES = [(0.0, 1), (0.01, 1), (0.01, 5), (0.1, 1)]  # lambda and k_reg
Answers = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--training", type=int, nargs="+", default=[100, 1000, 11_000], help="images of a head")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="directory for prepared images and features")
    options = parser.parse_args()
    os.environ["DARKROOM_MIRROR"] = str(Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve())
    result: dict[str, Any] = {"coverage_stated": COVERAGE}
    with ExitStack() as stack:
        folder = (options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))) / "cifar10"
        make("cifar10", folder)
        for n_images in options.training:
            answers = answers_of_head(folder, n_images)
            result[f"trained_on_{n_images}"] = compared(answers, draws=options.draws)
            if n_images == max(options.training):
                result["of_pairs"] = compared(pairs(*answers), draws=options.draws)
    target = {"target": "coverage as stated; the sets of u 0 no larger than those of u random or 1"}
    report("prediction_sets", {**target, **result}, packages=["numpy", "scipy"], save=options.save)


def answers_of_head(folder: Path, n_images: int) -> Answers:
    """Return probabilities and labels of images that were not used to fit head or temperature."""
    dataset, train = Dataset.open(folder / "prepared"), read(folder, "train")
    if (most := len(train.values) - N_HELD_OUT) < n_images:
        raise SystemExit(f"{n_images} training images were asked for; there are {most} beside those held out")
    order, labels = np.random.default_rng(0).permutation(len(train.values)), dataset.labels[train.rows]
    rows, fitting, others = order[:n_images], order[-N_HELD_OUT::2], order[-N_HELD_OUT + 1 :: 2]
    head = solve(
        train.values[rows],
        np.eye(len(dataset.classes), dtype=np.float32)[labels[rows]],
        weights=np.ones(n_images),
        groups=train.groups[rows],
        judged=np.ones(n_images, bool),
        seed=7,
    )
    said = [np.exp(log_softmax(train.values[part] @ head.kernel + head.bias)) for part in (fitting, others)]
    return scaled(said[1], fit_temperature(said[0], labels[fitting])), labels[others]


def pairs(probabilities: np.ndarray, labels: np.ndarray) -> Answers:
    """Return the answers for pairs of each image and its neighbour."""
    other, n_classes = np.roll(np.arange(len(labels)), 1), probabilities.shape[1]
    both = probabilities[:, :, None] * probabilities[other][:, None, :]
    return both.reshape(len(labels), -1), labels * n_classes + labels[other]


def compared(answers: Answers, *, draws: int) -> dict[str, Any]:
    probabilities, labels = answers
    found: dict[str, Any] = {"accuracy": round(float((probabilities.argmax(axis=1) == labels).mean()), 4)}
    for penalty, free in SHAPES:
        scores = set_scores(probabilities, penalty=penalty, free=free)
        for u in ("0", "random", "1"):
            rng = np.random.default_rng(1)
            share = rng.random((len(labels), 1)) if u == "random" else float(u)
            runs = [one_draw(scores + share * probabilities, probabilities, labels, rng=rng) for _ in range(draws)]
            coverage, size = np.mean(runs, axis=0).round(4).tolist()
            found[f"u {u}, lambda {penalty:g}, k {free}"] = {"coverage": coverage, "mean_set_size": size}
    return found


def one_draw(
    scores: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, *, rng: np.random.Generator
) -> tuple[float, float]:
    """Return coverage and mean size of the sets of images that were not used for calibration."""
    order = rng.permutation(len(labels))
    own, rest = order[:N_CALIBRATION], order[N_CALIBRATION:]
    members = scores[rest] <= score_threshold(scores[own, labels[own]], COVERAGE)
    members[np.arange(len(rest)), probabilities[rest].argmax(axis=1)] = True
    return float(members[np.arange(len(rest)), labels[rest]].mean()), float(members.sum(axis=1).mean())


if __name__ == "__main__":
    main()
