"""Could `embed` compute in int8? Speed, and the accuracy of heads on such features.

    DARKROOM_MIRROR=folder python -m benchmarks.int8                # 4 minutes on 2 cores

The directory contains cats_vs_dogs.tar and cifar10_jpeg.tar.xz; 400 images of each class are used, and all or the first
200 test images of each class. ONNX Runtime quantises the backbone of the preset `folder`: static, weights per channel,
ranges of 128 images. The speed depends on the processor: has_vnni says if it has instructions for int8.

speed is that of int8 divided by that of float32, the median of alternating rounds, each at its best batch size. Heads
are solved as by `train`, on three draws of 300 images of each class, and scored on the test images: `float32` on
float32 features; `int8` on int8 features, as if the deployed backbone were quantised too; `mixed` is fitted to int8
features and scored on float32 ones, as if only `embed` were.
"""

import os
import statistics
import tempfile
import time
import warnings
from contextlib import chdir
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.few_photographs import (
    ARCHIVES,
    N_TEST,
    PRESET,
    backbone,
    head_accuracy,
    take_photographs,
    use_folder,
)
from benchmarks.mnist import ROOT, clone, seconds
from benchmarks.record import arguments, find_mirror, report
from darkroom.cli import presets

N_TRAIN, N_DRAWN, SEEDS = 400, 300, (0, 1, 2)  # images of each class: to draw from, and drawn for a head
N_CALIBRATION, BATCH_SIZES, ROUNDS = 128, (8, 16), 5


def main() -> None:
    options = arguments(__doc__.split("\n")[0] if __doc__ else None).parse_args()
    if (mirror := find_mirror("int8", *ARCHIVES.values())) is None:
        return
    cpuinfo = Path("/proc/cpuinfo")
    result: dict[str, Any] = {
        "backbone": presets.read(PRESET, root=ROOT)["embed"]["backbone"],
        "has_vnni": cpuinfo.exists() and "vnni" in cpuinfo.read_text(),
    }
    with clone() as root, chdir(root):
        for name, archive in ARCHIVES.items():
            take_photographs(mirror / archive, root / name, n_train=N_TRAIN, n_test=N_TEST[name])
            use_folder(root, name, {})
            seconds(root, "dvc", "repro", "preprocess")
            result[name] = _compared(root)
    result["target"] = "within 0.2 points of float32"
    report("int8", result, packages=["onnxruntime", "onnx", "tensorflow", "keras", "scipy"], save=options.save)


def _compared(root: Path) -> dict[str, Any]:
    """Return speed and accuracies for the prepared images."""
    from darkroom.data.arrays.dataset import Dataset

    prepared = Dataset.open(root / "data" / "prepared")
    rows = np.concatenate([prepared.rows("train"), prepared.rows("val")])
    images, labels = prepared.images[rows], prepared.labels[rows]
    test, test_labels = prepared.images[prepared.rows("test")], prepared.labels[prepared.rows("test")]
    network, _ = backbone(root, prepared.image_shape)
    with tempfile.TemporaryDirectory() as folder:
        sessions = _sessions(network, images[:: len(images) // N_CALIBRATION][:N_CALIBRATION], Path(folder))
    speeds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            speeds[name].append(max(_images_per_second(session, images[:400], size) for size in BATCH_SIZES))
    features = {name: (_features(session, images), _features(session, test)) for name, session in sessions.items()}
    float32, int8 = features["float32"], features["int8"]
    ways = {"float32": float32, "int8": int8, "mixed": (int8[0], float32[1])}
    accuracies = {
        name: statistics.mean(_accuracy(fitted, labels, scored, test_labels, seed=seed) for seed in SEEDS)
        for name, (fitted, scored) in ways.items()
    }
    return {
        "speed": round(
            statistics.median(mine / theirs for mine, theirs in zip(speeds["int8"], speeds["float32"], strict=True)), 2
        ),
        **{f"{name}_test_accuracy": round(accuracy, 4) for name, accuracy in accuracies.items()},
    }


def _sessions(network: Any, calibration: np.ndarray, folder: Path) -> dict[str, Any]:
    """Return sessions of ONNX Runtime for the network in float32 and in int8."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from darkroom.compute.stream import n_workers_of
    from darkroom.networks.runtime.onnx_export import export_onnx

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._batches = iter([{name: calibration[i : i + 8]} for i in range(0, len(calibration), 8)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = n_workers_of("auto"), 3
    paths = {"float32": folder / "float32.onnx", "int8": folder / "int8.onnx"}
    network(calibration[:1], training=False)
    export_onnx(network, paths["float32"])
    name = onnxruntime.InferenceSession(str(paths["float32"])).get_inputs()[0].name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quant_pre_process(str(paths["float32"]), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
        quantize_static(
            str(folder / "prepared.onnx"), str(paths["int8"]), Images(name),
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return {side: onnxruntime.InferenceSession(str(path), options) for side, path in paths.items()}


def _features(session: Any, images: np.ndarray, batch_size: int = BATCH_SIZES[0]) -> np.ndarray:
    name = session.get_inputs()[0].name
    return np.concatenate(
        [session.run(None, {name: images[i : i + batch_size]})[0] for i in range(0, len(images), batch_size)]
    )


def _images_per_second(session: Any, images: np.ndarray, batch_size: int) -> float:
    started = time.perf_counter()
    _features(session, images, batch_size)
    return len(images) / (time.perf_counter() - started)


def _accuracy(
    features: np.ndarray, labels: np.ndarray, scored: np.ndarray, scored_labels: np.ndarray, *, seed: int
) -> float:
    """Return the accuracy of a head that is solved on features of drawn images."""
    from darkroom.networks.build import root as root_of

    rng, n_classes = np.random.default_rng(seed), int(labels.max()) + 1
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == one))[:N_DRAWN] for one in range(n_classes)])
    return head_accuracy(root_of(features[rows]), labels[rows], root_of(scored), scored_labels, seed=seed)


if __name__ == "__main__":
    main()
