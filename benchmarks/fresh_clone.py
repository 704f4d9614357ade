"""How long does a new user wait? `make run` in a fresh clone, with the installation, then `dvc repro` with no change.

Downloads of packages depend on the network and on the package manager's cache, so the installation is also reported
separately.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.record import arguments, report

ROOT = Path(__file__).resolve().parents[1]


def seconds(folder: Path, *command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    options = arguments(__doc__).parse_args()
    # Only the environment variables of a new shell: the clone must find its own .venv.
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "MLFLOW_TRACKING_URI", "DVC_ROOT", "MAKEFLAGS", "MAKELEVEL"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "darkroom"
        seconds(Path(folder), "git", "clone", "--quiet", str(ROOT), str(clone))
        setup, run = seconds(clone, "make", "setup"), seconds(clone, "make", "run")
        os.environ["PATH"] = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        no_op = [seconds(clone, "dvc", "repro") for _ in range(3)]
        evaluation = json.loads((clone / "reports" / "evaluation.json").read_text())
    scores = evaluation["candidates"][evaluation["winner"]]
    result = {
        "setup_seconds": round(setup, 1),
        "make_run_seconds_with_setup": round(setup + run, 1),
        "make_run_target": "at most 480 s",
        "no_op_repro_seconds": round(statistics.median(no_op), 1),
        "no_op_target": "at most 8 s",
        "test_accuracy": scores["test_accuracy"],
        "test_accuracy_ci95": scores["test_accuracy_ci95"],
        "test_accuracy_target": "at least 0.995",
    }
    report("fresh_clone", result, packages=["dvc", "mlflow", "tensorflow", "keras"], save=options.save)


if __name__ == "__main__":
    main()
