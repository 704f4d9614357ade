"""How much better is the default preset than a tutorial CNN? Both presets, one after the other, in a clone.

    python -m benchmarks.mnist                             # three seeds of the default preset, one of the tutorial's
    python -m benchmarks.mnist --seeds 7 --epochs 1        # a trial run

A seed decides initial weights, order and random draws; data and copies are the same. Training seconds are those of the
epochs, including validation. The rest of the train stage (tracking, checkpoints, export, check of parity) is reported
separately, without the time for importing Keras and MLflow, measured in another process. tune_seconds are those of the
stage `tune`, whose values `train` uses: a search of the default preset, none of the tutorial's.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.record import arguments, report
from darkroom.cli import presets

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("mnist-article", "mnist")
IMPORTS = "import keras, onnx, onnxruntime, pandas, mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store"


@contextmanager
def clone() -> Iterator[Path]:
    """Yield a clone of the last commit, in which `darkroom` and `dvc` are those of this environment.

    Its code is imported from the clone: DVC starts stages there, and PYTHONPATH comes before an editable installation.
    """
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        root = Path(folder) / "darkroom"
        seconds(Path(folder), "git", "clone", "--quiet", str(ROOT), str(root))
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ["PYTHONPATH"] = str(root / "src")
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
            os.environ.pop(name, None)
        yield root


def seconds(folder: Path, *command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def use(root: Path, preset: str, changes: dict[str, Any]) -> None:
    """Replace params.yaml of a clone with the preset, with other values for some keys ("train.cnn.epochs")."""
    params = presets.read(preset, root=root)
    for key, value in changes.items():
        *above, last = key.split(".")
        section = params
        for name in above:
            section = section[name]
        section[last] = value
    with (root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)


def run_preset(root: Path, preset: str, *, seeds: Sequence[int], epochs: int | None) -> dict[str, Any]:
    """Return mean and spread of the test accuracy over the seeds, and the mean seconds of training and of its stage."""
    accuracies, winners, tuning, training, stages = [], [], [], [], []
    for seed in seeds:
        use(root, preset, {"train.cnn.seed": seed} | ({"train.cnn.epochs": epochs} if epochs else {}))
        seconds(root, "dvc", "repro", "embed")
        tuning.append(seconds(root, "dvc", "repro", "--single-item", "tune@cnn"))
        stages.append(seconds(root, "dvc", "repro", "--single-item", "train@cnn"))
        seconds(root, "dvc", "repro", "evaluate")
        training.append(json.loads((root / "models" / "cnn" / "run.json").read_text())["train_seconds"])
        evaluation = json.loads((root / "reports" / "evaluation.json").read_text())
        scores = evaluation["candidates"]["cnn"]
        accuracies.append(scores["test_accuracy"])
        winners.append(evaluation["winner"])
    return {
        "seeds": list(seeds),
        "test_accuracy": round(statistics.mean(accuracies), 5),
        "test_accuracy_by_seed": accuracies,
        "test_accuracy_standard_deviation": round(statistics.stdev(accuracies), 5) if seeds[1:] else None,
        "test_accuracy_ci95_of_the_last": scores["test_accuracy_ci95"],
        "winners": winners,
        "tune_seconds": round(statistics.mean(tuning), 1),
        "train_seconds": round(statistics.mean(training), 1),
        "stage_seconds": round(statistics.mean(stages), 1),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--epochs", type=int, help="of both, for a trial run")
    options = parser.parse_args()
    with clone() as root:
        seeds = {"mnist-article": options.seeds[:1], "mnist": options.seeds}
        results = {preset: run_preset(root, preset, seeds=seeds[preset], epochs=options.epochs) for preset in PRESETS}
        imports = seconds(root, sys.executable, "-c", IMPORTS)
    article, default = (results[preset] for preset in PRESETS)
    overhead = default["stage_seconds"] - default["train_seconds"] - imports
    result = {
        **results,
        "test_accuracy_target": "at least 0.996, the mean of 3 seeds",
        "accuracy_gain_points": round(100 * (default["test_accuracy"] - article["test_accuracy"]), 2),
        "accuracy_gain_target": "at least 0.5",
        "train_seconds_ratio": round(default["train_seconds"] / article["train_seconds"], 2),
        "train_seconds_ratio_target": "at most 1.5",
        "import_seconds": round(imports, 1),
        "overhead_seconds": round(overhead, 1),
        "overhead_share_of_training": round(overhead / default["train_seconds"], 3),
        "overhead_target": "at most 15 s and 0.15",
    }
    report("mnist", result, packages=["tensorflow", "keras", "mlflow", "dvc"], save=options.save)


if __name__ == "__main__":
    main()
