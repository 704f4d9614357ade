"""How many of the errors of a tutorial CNN remain with transfer learning? Both presets on the same photographs.

    DARKROOM_MIRROR=folder python -m benchmarks.cats_vs_dogs
    DARKROOM_MIRROR=folder python -m benchmarks.cats_vs_dogs --epochs 1   # a trial run

The directory contains cats_vs_dogs.tar (the dataset cats-vs-dogs-small: 2,000 photographs for training, 1,000 for
testing). Both presets run with `dvc repro` in a clone, up to evaluate. Seconds are those of whole stages, including the
start of Python and imports. The stage embed runs twice, because the first run may download the weights of the backbone;
the second one counts.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.mnist import clone, seconds, use
from benchmarks.record import arguments, find_mirror, report

ARCHIVE = "cats_vs_dogs.tar"
CANDIDATES = {"cats-vs-dogs-article": "cnn", "cats-vs-dogs": "transfer"}


def run_preset(root: Path, preset: str, *, epochs: int | None) -> dict[str, Any]:
    candidate = CANDIDATES[preset]
    use(root, preset, {f"train.{candidate}.epochs": epochs} if epochs else {})
    data = seconds(root, "dvc", "repro", "augment")
    fetched = seconds(root, "dvc", "repro", "--single-item", "embed")
    embed = seconds(root, "dvc", "repro", "--single-item", "--force", "embed")
    seconds(root, "dvc", "repro", "--single-item", f"tune@{candidate}")  # no trials, but train reads its output
    train = seconds(root, "dvc", "repro", "--single-item", f"train@{candidate}")
    seconds(root, "dvc", "repro", "evaluate")
    scores = json.loads((root / "reports" / "evaluation.json").read_text())["candidates"][candidate]
    prepared = json.loads((root / "data" / "prepared" / "manifest.json").read_text())
    n_test = sum(prepared["counts"]["test"].values())
    return {
        "dataset": prepared["dataset"],
        "n_train": sum(prepared["counts"]["train"].values()),
        "n_test": n_test,
        "test_accuracy": scores["test_accuracy"],
        "test_accuracy_ci95": scores["test_accuracy_ci95"],
        "test_errors": round((1 - scores["test_accuracy"]) * n_test),
        "data_seconds": round(data, 1),
        "embed_seconds_first": round(fetched, 1),
        "embed_seconds": round(embed, 1),
        "train_stage_seconds": round(train, 1),
        "train_seconds": json.loads((root / "models" / candidate / "run.json").read_text())["train_seconds"],
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, help="of both, for a trial run")
    options = parser.parse_args()
    if find_mirror("cats_vs_dogs", ARCHIVE) is None:
        return
    with clone() as root:
        results = {preset: run_preset(root, preset, epochs=options.epochs) for preset in CANDIDATES}
    article, transfer = (results[preset] for preset in CANDIDATES)
    result = {
        **results,
        "factor_of_errors": round(article["test_errors"] / max(1, transfer["test_errors"]), 1),
        "factor_of_errors_target": "at least 8",
        "test_accuracy_target": "at least 0.98",
        "embed_and_train_seconds": round(transfer["embed_seconds"] + transfer["train_stage_seconds"], 1),
        "embed_and_train_target": "at most 180 s",
    }
    packages = ["tensorflow", "keras", "onnxruntime", "opencv-python-headless", "dvc"]
    report("cats_vs_dogs", result, packages=packages, save=options.save)


if __name__ == "__main__":
    main()
