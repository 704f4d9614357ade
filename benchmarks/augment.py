"""Augmentation on all cores, written to disk, against a plain albumentations loop that discards its copies.

    python -m benchmarks.augment          # prints; about a minute on 2 cores
    python -m benchmarks.augment --save   # also writes benchmarks/results/augment.json

Both sides use the same images and transforms, alternating in the same run; medians are reported. The plain loop has
its images in memory and uses one core; Darkroom reads, hashes and writes, on all cores.

ratio_running: images per second after the first copies have arrived, relative to the plain loop.
ratio_running_to_plain_written: the same relative to a plain loop that also writes and hashes its copies.
ratio_with_start: the same for the whole time from the start of a Python process. Darkroom's time includes the start of
the workers, which import albumentations, and the import of pandas; that of the plain loop its import of albumentations.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import cv2
import numpy as np
import pandas as pd

from benchmarks import record
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.augmentation import copies

CASES: dict[str, dict[str, Any]] = {
    "28x28 grey": {
        "shape": (28, 28, 1),
        "n_images": 54_000,
        "transforms": [
            {
                "Affine": {
                    "rotate": [-12, 12],
                    "scale": [0.88, 1.12],
                    "shear": [-10, 10],
                    "translate_percent": [-0.07, 0.07],
                    "p": 1.0,
                }
            }
        ],
    },
    "160x160 rgb": {
        "shape": (160, 160, 3),
        "n_images": 6_000,
        "transforms": [
            {"HorizontalFlip": {"p": 0.5}},
            {
                "Affine": {
                    "rotate": [-20, 20],
                    "scale": [0.8, 1.2],
                    "shear": [-10, 10],
                    "translate_percent": [-0.1, 0.1],
                    "border_mode": cv2.BORDER_REFLECT_101,
                    "p": 1.0,
                }
            },
            {"RandomBrightnessContrast": {"p": 0.5}},
        ],
    },
}


def main() -> None:
    parser = record.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    results: dict[str, Any] = {"target": "ratio_running_to_plain_written at least 1.8"}
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        for name, case in CASES.items():
            results[name] = compare(Path(folder), case, rounds=options.rounds, workers=options.workers)
    packages = ["albumentations", "opencv-python-headless", "numpy", "joblib"]
    record.report("augment", results, packages=packages, save=options.save)


def compare(folder: Path, case: dict[str, Any], *, rounds: int, workers: int) -> dict[str, Any]:
    """Return the median images per second of each side, their spread, and the ratios to the plain loop."""
    n_images, shape, transforms = case["n_images"], case["shape"], case["transforms"]
    images = pictures(n_images, shape)
    prepared = folder / "prepared"
    index = pd.DataFrame({"row": range(n_images), "id": [f"{row:064x}" for row in range(n_images)]})
    index = index.assign(label="a", split="train")
    manifest = {"dataset": "noise", "classes": ["a"], "color": "any", "mean": [], "std": []}
    with DatasetWriter(prepared, image_shape=shape, shard_bytes=64 << 20) as writer:
        writer.append(images)
        writer.finish(index=index, manifest=manifest)
    rows = Dataset.open(prepared).rows("train")

    steps = [getattr(albumentations, name)(**arguments) for step in transforms for name, arguments in step.items()]
    pipeline = albumentations.Compose(steps, seed=7)
    threads = cv2.getNumThreads()

    def plain() -> None:
        cv2.setNumThreads(threads)
        for image in images:
            pipeline(image=image)["image"]

    def plain_written() -> None:
        """The same loop, but it writes and hashes its copies like Darkroom: the same job on one core."""
        cv2.setNumThreads(threads)
        with DatasetWriter(folder / "plain", image_shape=shape, shard_bytes=64 << 20) as writer:
            for image in images:
                writer.append(pipeline(image=image)["image"][None])
            writer.finish(index=copies.copies_index(index, copies=1), manifest=manifest)

    def ours() -> float:
        """Return the seconds from the first block of copies to the end, scaled to all images."""
        out = folder / "augmented"
        running = n_rest = 0.0
        with DatasetWriter(out, image_shape=shape, shard_bytes=64 << 20) as writer:
            for block in copies.draw_copies(
                prepared,
                rows=rows,
                ids=index["id"].tolist(),
                transforms=transforms,
                copies=1,
                seed=7,
                scratch=out,
                backend="loky",
                workers=workers,
            ):
                if not running:
                    running = time.perf_counter()
                else:
                    n_rest += len(block)
                writer.append(block)
            writer.finish(index=copies.copies_index(index, copies=1), manifest=manifest)
        return float((time.perf_counter() - running) * n_images / n_rest)

    sides = ("plain", "plain_written", "running", "whole", "import_albumentations", "import_ours")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    ours()  # the first write to unused memory pages takes several times as long as later ones
    for _ in range(rounds):
        seconds["plain"].append(timed(plain))
        seconds["plain_written"].append(timed(plain_written))
        start = time.perf_counter()
        seconds["running"].append(ours())
        seconds["whole"].append(time.perf_counter() - start)
        seconds["import_albumentations"].append(timed(lambda: python("import albumentations")))
        seconds["import_ours"].append(
            timed(lambda: python("import pandas; from darkroom.data.augmentation import copies"))
        )
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    plain_from_start = medians["import_albumentations"] + medians["plain"]
    ours_from_start = medians["import_ours"] + medians["whole"]
    return {
        "n_images": n_images,
        "workers": workers,
        "rounds": rounds,
        "images_per_second": {side: round(n_images / medians[side]) for side in ("plain", "plain_written", "running")},
        "seconds_median": {side: round(median, 3) for side, median in medians.items()},
        "seconds_min_max": {side: [round(min(times), 3), round(max(times), 3)] for side, times in seconds.items()},
        "ratio_running": round(medians["plain"] / medians["running"], 2),
        "ratio_running_to_plain_written": round(medians["plain_written"] / medians["running"], 2),
        "ratio_with_start": round(plain_from_start / ours_from_start, 2),
    }


def pictures(n_images: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return smooth noise: as in photographs, neighbouring pixels are similar."""
    rng = np.random.default_rng(0)
    height, width, channels = shape
    small = rng.integers(0, 256, (64, height // 4, width // 4, channels), dtype=np.uint8)
    large = [cv2.resize(image, (width, height)).reshape(shape) for image in small]
    return np.stack([large[number % len(large)] for number in range(n_images)])


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
