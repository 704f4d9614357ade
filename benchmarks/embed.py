"""How fast are features computed on a CPU? The stage's way (ONNX Runtime) against `model.predict` of Keras in float32.

    python -m benchmarks.embed                                  # speed, with random weights: 2 minutes
    python -m benchmarks.embed --prepared data/prepared         # and heads on both, with ImageNet weights

Both sides get the same EfficientNet-Lite0 and the same images from a memory-mapped file, in alternating rounds of one
process, each at its best batch size; the stage also writes the features to disk. One-time costs (export, and Keras'
tracing) are reported separately. With --prepared a logistic regression is fitted to each side's features of the
training images and scored on the test images.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import arguments, report

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BACKBONE = "efficientnet-lite0"
PREDICT_BATCHES = (16, 32, 64)  # Keras' own default is 32


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--image-size", type=int, default=160, help="edge in pixels")
    parser.add_argument("--images", type=int, default=768, help="pictures per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prepared", type=Path, help="a dataset for the heads, such as data/prepared")
    options = parser.parse_args()
    from darkroom.networks.backbones import embedding
    from darkroom.networks.backbones.extractor import extractor
    from darkroom.networks.runtime.device import prepare

    device = prepare("cpu")
    size = (options.image_size, options.image_size)
    network = extractor(BACKBONE, image_shape=(*size, 3), image_size=size)
    started = time.perf_counter()
    embedder = embedding.Embedder(network, image_size=size, runtime="onnx")
    export_seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (options.images, *size, 3), dtype=np.uint8)
        np.save(Path(folder) / "images.npy", pixels)
        stored = np.load(Path(folder) / "images.npy", mmap_mode="r")
        result = {
            "device": device,
            "image_size": options.image_size,
            **_speeds(network, embedder, stored, rounds=options.rounds, out=Path(folder) / "features"),
            "target": "at least 3 times",
            "export_seconds": round(export_seconds, 1),
        }
    if options.prepared:
        result |= _heads(options.prepared, size)
    report("embed", result, packages=["tensorflow", "keras", "onnxruntime", "numpy"], save=options.save)


def _speeds(extractor: Any, embedder: Any, images: np.ndarray, *, rounds: int, out: Path) -> dict[str, Any]:
    """Return images per second of both sides, the median of the rounds, and their greatest difference."""
    from darkroom.data.arrays.features import Features, FeaturesWriter
    from darkroom.data.arrays.selection import Selection

    n_images = len(images)
    rows, labels = np.column_stack([np.zeros(n_images, int), np.arange(n_images)]), np.zeros(n_images, int)

    def ours() -> np.ndarray:
        with FeaturesWriter(out) as writer:
            blocks = embedder(Selection([(images, rows[:, 1])]))
            writer.write("val", blocks, n_features=embedder.n_features, rows=rows, labels=labels)
            writer.finish(
                backbone=BACKBONE, weights="none", weights_origin="none", weights_sha256=None,
                image_size=list(images.shape[1:3]), seed=0, prepared_digest="", augmented_digest="",
            )  # fmt: skip
        return Features.open(out).arrays("val")[0]

    def by_predict(batch_size: int) -> np.ndarray:
        return np.asarray(extractor.predict(images, batch_size=batch_size, verbose=0))

    started = time.perf_counter()
    extractor.predict(images[:32], batch_size=32, verbose=0)
    trace_seconds = time.perf_counter() - started
    sides: dict[str, Callable[[], np.ndarray]] = {"embed": ours}
    sides |= {f"predict_{size}": lambda size=size: by_predict(size) for size in PREDICT_BATCHES}  # type: ignore[misc]
    found = {name: side() for name, side in sides.items()}  # warm up both, untimed
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            speeds[name].append(n_images / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    best = max(medians, key=lambda name: medians[name] if name != "embed" else 0.0)
    return {
        "images_per_second_embed": round(medians["embed"]),
        "images_per_second_predict": round(medians[best]),
        "predict_batch_size": int(best.removeprefix("predict_")),
        "ratio": round(medians["embed"] / medians[best], 2),
        "greatest_difference": float(np.abs(found["embed"] - found[best]).max() / np.abs(found[best]).max()),
        "predict_trace_seconds": round(trace_seconds, 1),
    }


def _heads(prepared: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Return the test accuracy of the same head on the features of each side."""
    from sklearn.linear_model import LogisticRegression

    from darkroom.data.arrays.dataset import Dataset
    from darkroom.data.arrays.selection import Selection
    from darkroom.networks.backbones import embedding
    from darkroom.networks.backbones.extractor import extractor
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.weights import obtain_weights

    dataset = Dataset.open(prepared)
    weights = obtain_weights(find_backbone(BACKBONE), "imagenet")
    network = extractor(BACKBONE, image_shape=dataset.image_shape, image_size=size, weights=weights)
    embedder = embedding.Embedder(network, image_size=size, runtime="onnx")
    sides: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "embed": lambda rows: np.concatenate(list(embedder(Selection([(dataset.images, rows)])))),
        "predict": lambda rows: np.asarray(network.predict(dataset.images[rows], verbose=0)),
    }
    train, test = dataset.rows("train"), dataset.rows("test")
    accuracy = {}
    for name, features_of in sides.items():
        head = LogisticRegression(C=0.1, max_iter=2000).fit(features_of(train), dataset.labels[train])
        accuracy[name] = float(head.score(features_of(test), dataset.labels[test]))
    return {
        "dataset": dataset.manifest["dataset"],
        "head_test_images": len(test),
        "head_test_accuracy_embed": round(accuracy["embed"], 5),
        "head_test_accuracy_predict": round(accuracy["predict"], 5),
        "head_difference_points": round(100 * abs(accuracy["embed"] - accuracy["predict"]), 3),
        "head_target": "within 0.2 points",
    }


if __name__ == "__main__":
    main()
