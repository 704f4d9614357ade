"""Are labels of images listed by `darkroom label-next` better than as many labels of random images? On CIFAR-10.

    DARKROOM_MIRROR=folder python -m benchmarks.label_next                    # computes the features first: 5 minutes
    DARKROOM_MIRROR=folder python -m benchmarks.label_next --keep features    # uses those of benchmarks/audit.py
    DARKROOM_MIRROR=folder python -m benchmarks.label_next --seeds 0 --rounds 1    # a trial run

In a pool of 20,000 images, 400 random ones are labelled. A head on the features of a frozen EfficientNet-Lite0
classifies the rest, 400 more are labelled, and so on: 2,000 labels after 4 rounds. Accuracies are those on validation
images after each round; a seed decides the first 400 and the random choices.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.audit import make, read
from benchmarks.record import arguments, report
from darkroom.audit.material import N_FEATURES
from darkroom.audit.next_labels import label_next
from darkroom.audit.pixels import small_copies
from darkroom.audit.suspects import main_directions
from darkroom.data.arrays.dataset import Dataset
from darkroom.training.linear_head import LinearHead, log_softmax, solve

AT_ONCE = 400
SIDES = ("darkroom", "random")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="directory for prepared images and features")
    options = parser.parse_args()
    os.environ["DARKROOM_MIRROR"] = str(Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve())
    with ExitStack() as stack:
        kept = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make("cifar10", kept / "cifar10")
        stack.enter_context(threadpool_limits(1, user_api="blas"))  # otherwise products wait for busy cores
        pool = Pool(kept / "cifar10")
        curves = {
            side: [pool.accuracies(side, n_rounds=options.rounds, seed=seed) for seed in options.seeds]
            for side in SIDES
        }
    result: dict[str, Any] = {"seeds": options.seeds, "n_labels": [AT_ONCE * n for n in range(1, options.rounds + 2)]}
    for side in SIDES:
        result[side] = {"accuracy": np.mean(curves[side], axis=0).round(4).tolist(), "last_by_seed": last(curves[side])}
    gains = np.subtract(last(curves["darkroom"]), last(curves["random"]))
    result |= {"gain": round(float(gains.mean()), 4), "seeds_with_gain": int((gains > 0).sum())}
    report("label_next", {**result, "target": "gain above 0"}, packages=["numpy", "scipy"], save=options.save)


def last(curves: list[list[float]]) -> list[float]:
    return [round(curve[-1], 4) for curve in curves]


class Pool:
    """Images whose labels are unknown until requested, and validation images."""

    def __init__(self, folder: Path) -> None:
        dataset, pool, held_out = Dataset.open(folder / "prepared"), read(folder, "train"), read(folder, "val")
        self.n_classes = len(dataset.classes)
        self.labels, self.val_labels = dataset.labels[pool.rows], dataset.labels[held_out.rows]
        values = main_directions(np.vstack([pool.values, held_out.values]), n=N_FEATURES)
        self.values, self.val_values = values[: len(pool.rows)], values[len(pool.rows) :]
        self.copies = small_copies(dataset.images, pool.rows)

    def accuracies(self, side: str, *, n_rounds: int, seed: int) -> list[float]:
        """Return the accuracy before the first round and after each."""
        rng = np.random.default_rng(seed)
        known = rng.choice(len(self.labels), AT_ONCE, replace=False)
        head = self.head(known)
        found = [self.accuracy(head)]
        for _ in range(n_rounds):
            rest = np.setdiff1d(np.arange(len(self.labels)), known)
            if side == "random":
                chosen = rng.choice(len(rest), AT_ONCE, replace=False)
            else:
                probabilities = np.exp(log_softmax(self.values[rest] @ head.kernel + head.bias))
                chosen = label_next(probabilities, self.copies[rest], n=AT_ONCE)
            known = np.r_[known, rest[chosen]]
            head = self.head(known)
            found.append(self.accuracy(head))
        return found

    def head(self, known: np.ndarray) -> LinearHead:
        return solve(
            self.values[known],
            np.eye(self.n_classes)[self.labels[known]],
            weights=np.ones(len(known)),
            groups=np.arange(len(known)),
            judged=np.ones(len(known), bool),
            seed=7,
        )

    def accuracy(self, head: LinearHead) -> float:
        return float(((self.val_values @ head.kernel + head.bias).argmax(axis=1) == self.val_labels).mean())


if __name__ == "__main__":
    main()
