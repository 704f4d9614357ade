"""What does the default preset gain over the articles' network? Both presets, whole flow, one after the other.

Training seconds are those of the epochs, validation included. The rest of the train stage (tracking, checkpoints,
export, proof of parity) is given apart, less the time that importing Keras and MLflow takes in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import arguments, report

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("mnist-article", "mnist")
IMPORTS = "import keras, onnx, onnxruntime, pandas, mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store"


def seconds(folder: Path, *command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_preset(clone: Path, preset: str) -> dict[str, Any]:
    seconds(clone, "darkroom", "use", preset, "--force")
    seconds(clone, "dvc", "repro", "augment")
    stage = seconds(clone, "dvc", "repro", "--single-item", "train@cnn")
    seconds(clone, "dvc", "repro")
    run = json.loads((clone / "models" / "cnn" / "run.json").read_text())
    scores = json.loads((clone / "reports" / "evaluation.json").read_text())["candidates"]["cnn"]
    return {
        "test_accuracy": scores["test_accuracy"],
        "test_accuracy_ci95": scores["test_accuracy_ci95"],
        "train_seconds": run["train_seconds"],
        "stage_seconds": round(stage, 1),
    }


def main() -> None:
    options = arguments(__doc__).parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "darkroom"
        seconds(Path(folder), "git", "clone", "--quiet", str(ROOT), str(clone))
        results = {preset: run_preset(clone, preset) for preset in PRESETS}
        imports = seconds(clone, sys.executable, "-c", IMPORTS)
    article, default = (results[preset] for preset in PRESETS)
    overhead = default["stage_seconds"] - default["train_seconds"] - imports
    result = {
        **results,
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
