"""How long does it take from a directory of photographs to a prediction? Three commands in a fresh clone.

    python -m benchmarks.first_prediction --photographs cats_vs_dogs.tar --classes 2 --per-class 150   # 5 minutes
    python -m benchmarks.first_prediction --photographs cifar10_jpeg.tar.xz --enlarge 224 --save       # 5 x 60

The commands are `darkroom init PHOTOGRAPHS`, `dvc repro` and `darkroom predict IMAGE`. Packages are installed before,
the weights of the backbone are downloaded unless the mirror has them.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from benchmarks.record import arguments, report

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="a tar of train/<class>/<image>")
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--enlarge", type=int, help="edge in pixels, for images that are smaller than photographs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone, images = Path(folder) / "clone", Path(folder) / "images"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        kept = _write(options.photographs, images, n_classes=options.classes, n=options.per_class, edge=options.enlarge)
        seconds = {
            "darkroom init": _run(clone, "darkroom", "init", str(images))[0],
            "dvc repro": _run(clone, "dvc", "repro")[0],
        }
        seconds["darkroom predict"], answer = _run(clone, "darkroom", "predict", str(kept))
        evaluation = json.loads((clone / "reports" / "evaluation.json").read_text())
        promotion = json.loads((clone / "reports" / "promotion.json").read_text())
    result = {
        options.photographs.name.split(".")[0]: {
            "classes": options.classes,
            "images_per_class": options.per_class,
            "enlarged_to": options.enlarge,
            "commands": 3,
            "seconds": {command: round(value, 1) for command, value in seconds.items()},
            "seconds_in_all": round(sum(seconds.values()), 1),
            "target": "under 300 s",
            "candidates": list(evaluation["candidates"]),
            "test_accuracy": evaluation["candidates"][evaluation["winner"]]["test_accuracy"],
            "decision": promotion["decision"],
            "predicted": {key: value for key, value in json.loads(answer).items() if key != "file"},
        }
    }
    report(
        "first_prediction",
        result,
        packages=["dvc", "mlflow", "tensorflow", "keras"],
        save=options.save,
        parts=("cats_vs_dogs", "cifar10_jpeg"),
    )


def _run(folder: Path, *command: str) -> tuple[float, str]:
    """Return seconds and output of a command, run as in a new shell with the code of the clone."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "DVC_")) and name != "PYTHONPATH"
    }
    environment |= {
        "PYTHONPATH": str(folder / "src"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    given = [sys.executable, "-m", "darkroom.cli.main", *command[1:]] if command[0] == "darkroom" else [*command]
    started = time.perf_counter()
    done = subprocess.run(given, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, done.stdout


def _write(source: Path, folder: Path, *, n_classes: int, n: int, edge: int | None) -> Path:
    """Write n images of each of the first classes, and return the path of another image."""
    counts: Counter[str] = Counter()
    kept = folder.parent / "another.jpg"
    with tarfile.open(source) as tar:
        for member in tar:
            split, label, *_ = [*member.name.split("/"), ""]
            content = tar.extractfile(member) if member.isfile() and split == "train" else None
            if content is None or (label not in counts and len(counts) == n_classes) or counts[label] > n:
                continue
            counts[label] += 1
            path = folder / label / f"{counts[label]:03d}.jpg" if counts[label] <= n else kept
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_enlarged(content.read(), edge))
    return kept


def _enlarged(data: bytes, edge: int | None) -> bytes:
    if edge is None:
        return data
    small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert small is not None
    return cv2.imencode(".jpg", cv2.resize(small, (edge, edge), interpolation=cv2.INTER_CUBIC))[1].tobytes()


if __name__ == "__main__":
    main()
