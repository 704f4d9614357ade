"""`darkroom batch` against a bare loop over all cores that decodes images and calls ONNX Runtime.

    python -m benchmarks.batch --save

Darkroom lists the directory, reads, hashes, validates, decodes, resizes and classifies every image, saves each part so
that it can resume, and writes the parquet file. The bare loop is a multiprocessing.Pool with a process per core, each
with a network on one thread, which reads, decodes with OpenCV, resizes, classifies in batches of the same size and
discards the answers. Both classify the same files with the same network; imports, and the start of the bare loop's
processes, are not counted.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.sides import Side, be_side
from darkroom.deployable.code_files import IMPORTED

ROOT = Path(__file__).resolve().parents[1]
CLASSES = [f"class{number}" for number in range(10)]
CODE = ("package.py", *IMPORTED)  # of a registered version
CASES: dict[str, dict[str, Any]] = {
    "small": {"images": 20_000, "shape": (28, 28, 1), "stored": (28, 28), "filters": (32, 64, 128)},
    "photographs": {"images": 2_000, "shape": (224, 224, 3), "stored": (256, 300), "filters": (16, 32, 64, 128)},
}


def main() -> None:
    parser = record.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--share", type=float, default=1.0, help="of the images, to try it out")
    options = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory(prefix="darkroom-") as scratch:
        for name, case in CASES.items():
            result[name] = measure(
                Path(scratch, name), {**case, "images": int(case["images"] * options.share)}, options
            )
    packages = ["numpy", "opencv-python-headless", "onnxruntime", "pyarrow"]
    record.report("batch", result, packages=packages, save=options.save)


def measure(place: Path, case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return images per second of both sides, which take turns, each in a separate process."""
    write_images(place / "images", case)
    write_network(place / "artifacts" / "model.onnx", shape=case["shape"], filters=case["filters"])
    (place / "code").mkdir()
    for name in CODE:
        shutil.copy(ROOT / "src" / "darkroom" / "deployable" / name, place / "code" / name)
    rates: dict[str, list[float]] = {"darkroom": [], "bare": []}
    sides = {name: Side("benchmarks.batch", name, str(place)) for name in rates}
    for number in range(options.rounds + 1):
        for name, side in sides.items():
            seconds = side.seconds()
            if number > 0:  # the first round warms the page cache
                rates[name].append(case["images"] / seconds)
    for side in sides.values():
        side.close()
    ratios = [ours / theirs for ours, theirs in zip(rates["darkroom"], rates["bare"], strict=True)]
    n_bytes = sum(path.stat().st_size for path in (place / "images").iterdir())
    return {
        "n_images": case["images"],
        "mean_image_bytes": round(n_bytes / case["images"]),
        "image_shape": list(case["shape"]),
        **{f"{name}_images_per_second": round(statistics.median(values)) for name, values in rates.items()},
        "ratio": round(statistics.median(ratios), 3),
        "rounds": {name: [round(rate) for rate in values] for name, values in rates.items()},
    }


def work(name: str, place: Path) -> None:
    """Run one side."""
    one_pass = _darkroom(place) if name == "darkroom" else _bare(place)

    def timed() -> float:
        start = time.perf_counter()
        one_pass()
        return time.perf_counter() - start

    be_side(timed)


def _darkroom(place: Path) -> Callable[[], object]:
    from darkroom.batch import run
    from darkroom.files.writing import sha256_of
    from darkroom.registry.snapshot import Version

    files = ["artifacts/model.onnx", *(f"code/{name}" for name in CODE)]
    version = Version("benchmark", "1", None, str(place), {f"sha256/{name}": sha256_of(place / name) for name in files})
    return lambda: run.run(str(place / "images"), place / "out.parquet", version=version)


def _bare(place: Path) -> Callable[[], object]:
    from darkroom.batch.answers import batch_size

    shape = json.loads((place / "shape.json").read_text())
    pool = multiprocessing.Pool(len(os.sched_getaffinity(0)), _start, (str(place / "artifacts" / "model.onnx"), shape))
    size = batch_size(tuple(shape))

    def one_pass() -> int:
        folder = str(place / "images")
        files = [f"{folder}/{name}" for name in sorted(os.listdir(folder))]  # noqa: PTH208 - as fast as possible
        batches = [files[start : start + size] for start in range(0, len(files), size)]
        return sum(pool.imap_unordered(_classify, batches, chunksize=max(1, 256 // size)))

    return one_pass


_session: Any = None  # of a process of the pool, set by _start
_shape: list[int] = []


def _start(model: str, shape: list[int]) -> None:
    import onnxruntime

    global _session, _shape
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    _session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    _shape = shape


def _classify(files: list[str]) -> int:
    import cv2

    height, width, channels = _shape
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    images = np.empty((len(files), height, width, channels), np.uint8)
    for position, name in enumerate(files):
        with open(name, "rb") as file:  # noqa: PTH123 - as fast as possible
            image: Any = cv2.imdecode(np.frombuffer(file.read(), np.uint8), flag)
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        images[position] = image.reshape(height, width, channels)
    return len(_session.run(None, {"image": images})[0])


def write_images(folder: Path, case: dict[str, Any]) -> None:
    """Write JPEGs of smooth noise with some grain, with about the file size of photographs."""
    import cv2

    folder.mkdir(parents=True)
    (folder.parent / "shape.json").write_text(json.dumps(case["shape"]))
    rng = np.random.default_rng(0)
    height, width = case["stored"]
    for number in range(case["images"]):
        small = rng.integers(0, 256, (8, 8, case["shape"][2]), np.uint8)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        grain = rng.integers(-12, 13, image.shape, np.int16)
        data = cv2.imencode(".jpg", np.clip(image + grain, 0, 255).astype(np.uint8))[1]
        (folder / f"{number:06d}.jpg").write_bytes(data.tobytes())


def write_network(path: Path, *, shape: tuple[int, int, int], filters: tuple[int, ...]) -> None:
    """Write a classifier with random weights: 3x3 convolution, ReLU and 2x2 pooling per entry of filters."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Transpose", ["float"], ["x0"], perm=[0, 3, 1, 2]))
    weights, channels = [], shape[2]
    for layer, n_filters in enumerate(filters):
        kernel = rng.normal(0, 0.05, (n_filters, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        nodes.append(helper.make_node("MaxPool", [f"r{layer}"], [f"x{layer + 1}"], kernel_shape=[2, 2], strides=[2, 2]))
        channels = n_filters
    dense = rng.normal(0, 0.05, (channels, len(CLASSES))).astype(np.float32)
    weights.append(numpy_helper.from_array(dense, "dense"))
    nodes.append(helper.make_node("GlobalAveragePool", [f"x{len(filters)}"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "dense"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    entrance = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *shape])
    leaving = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(CLASSES)])
    graph = helper.make_graph(nodes, "benchmark", [entrance], [leaving], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    color = "grey" if shape[2] == 1 else "rgb"
    said = {"classes": CLASSES, "image_shape": list(shape), "color": color}
    helper.set_model_props(model, {"darkroom": json.dumps(said)})
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        work(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
