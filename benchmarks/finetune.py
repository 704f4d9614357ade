"""When is it worth fine-tuning a backbone? The preset's solved head, hidden units, and fine-tuning from that head.

    DARKROOM_MIRROR=folder python -m benchmarks.finetune                                        # an hour on 2 cores
    DARKROOM_MIRROR=folder python -m benchmarks.finetune --cases cats-vs-dogs-100 --draws 1     # a trial run

The directory contains cats_vs_dogs.tar and cifar10_jpeg.tar.xz. A case has a number of images of each class. A draw is
another part of the training images of the archive: no image is in two draws. Tests use 500 cats and 500 dogs, or 200
images of each class of CIFAR-10.

All sides are the stages of the pipeline with the preset `folder`, without its limit of embed.max_images. `features` is
the preset: the head is solved. `hidden` trains a head with hidden units on the same features, and keeps the best epoch
on the validation images. `finetune` starts from the solved head, and keeps the best of it and of all epochs;
`finetune_last` keeps the last epoch. train_seconds are those of solving and of the epochs, without embed, which all
need, and without loading and exporting. Means over the draws; standard_error_points is that of one accuracy on these
images.
"""

import json
import statistics
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.few_photographs import ARCHIVES, N_TEST, take_photographs, use_folder
from benchmarks.mnist import clone, seconds
from benchmarks.record import arguments, find_mirror, report

SIDES: dict[str, dict[str, Any]] = {
    "features": {},
    "hidden": {"architecture.units": 512, "checkpoint": "best"},
    "finetune": {"architecture.mode": "finetune", "checkpoint": "best"},
    "finetune_last": {"architecture.mode": "finetune", "checkpoint": "last"},
}


@dataclass(frozen=True)
class Case:
    """`size` images of every class, or of some classes; the sides, and epochs of fine-tuning."""

    archive: str
    size: int
    classes: tuple[str, ...] | None = None
    n_draws: int = 1
    sides: tuple[str, ...] = ("features", "hidden", "finetune")
    finetune_epochs: int = 5


CASES = {
    "cifar10-60-of-5": Case("cifar10", 60, ("airplane", "bird", "cat", "dog", "ship"), n_draws=3, sides=tuple(SIDES)),
    "cats-vs-dogs-100": Case("cats-vs-dogs", 100, n_draws=3, sides=tuple(SIDES)),
    "cats-vs-dogs-1000": Case("cats-vs-dogs", 1000),
    "cifar10-500": Case("cifar10", 500),
    "cifar10-5000": Case("cifar10", 5000, finetune_epochs=1),
}


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--draws", type=int, help="at most, of every case")
    options = parser.parse_args()
    if (mirror := find_mirror("finetune", *ARCHIVES.values())) is None:
        return
    result: dict[str, Any] = {}
    with clone() as root, chdir(root):
        for name in options.cases:
            case = CASES[name]
            n_draws = min(case.n_draws, options.draws or case.n_draws)
            draws = [_accuracies(root, mirror, name, case, draw=draw) for draw in range(n_draws)]
            result[name] = _summary(draws, case)
            print(json.dumps({name: result[name]}), file=sys.stderr, flush=True)
    packages = ["tensorflow", "keras", "scipy", "numpy"]
    report("finetune", result, packages=packages, save=options.save, parts=tuple(CASES))


def _accuracies(root: Path, mirror: Path, name: str, case: Case, *, draw: int) -> dict[str, dict[str, float]]:
    """Return the test accuracy and the seconds of the stage train, by side."""
    folder = f"{name}-{draw}"
    take_photographs(
        mirror / ARCHIVES[case.archive],
        root / folder,
        n_train=case.size,
        n_test=N_TEST[case.archive],
        first=draw * case.size,
        classes=case.classes,
    )
    found = {}
    for side in case.sides:
        changes = {"architecture.finetune_epochs": case.finetune_epochs, **SIDES[side]}
        use_folder(
            root,
            folder,
            {f"train.transfer.{key}": value for key, value in changes.items()} | {"embed.max_images": None},
        )
        seconds(root, "dvc", "repro", "evaluate")
        scores = json.loads((root / "reports" / "evaluation.json").read_text())["candidates"]["transfer"]
        run = json.loads((root / "models" / "transfer" / "run.json").read_text())
        found[side] = {
            "test_accuracy": scores["test_accuracy"],
            "test_loss": scores["test_loss"],
            "train_seconds": run["train_seconds"],
        }
    return found


def _summary(draws: list[dict[str, dict[str, float]]], case: Case) -> dict[str, Any]:
    """Return means over the draws, and the gains over the solved head."""
    n_classes = len(case.classes) if case.classes else {"cifar10": 10, "cats-vs-dogs": 2}[case.archive]
    mean = {
        side: {key: round(statistics.mean(draw[side][key] for draw in draws), 4) for key in draws[0][side]}
        for side in case.sides
    }
    accuracy = mean["features"]["test_accuracy"]
    n_test = N_TEST[case.archive] * n_classes
    return {
        "n_train": case.size * n_classes,
        "n_test": n_test,
        "n_draws": len(draws),
        "finetune_epochs": case.finetune_epochs,
        **mean,
        "gain_points": {
            side: round(100 * (mean[side]["test_accuracy"] - accuracy), 2) for side in case.sides if side != "features"
        },
        "standard_error_points": round(100 * (accuracy * (1 - accuracy) / n_test) ** 0.5, 2),
    }


if __name__ == "__main__":
    main()
