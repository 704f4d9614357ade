"""Which backbone with packaged weights is worth its time? Accuracy of a linear head, and images per second on a CPU.

    python -m benchmarks.backbones --photographs cats_vs_dogs.tar               # 15 minutes on 2 cores
    python -m benchmarks.backbones --photographs cats_vs_dogs.tar --edges 160 --images 400     # a minute

Photographs are cropped to 160 and to 224 pixels. Backbones process the same blocks of images in turns; the speed is the
median over the blocks. The head is the pipeline's, solved on train/ and scored on test/. `zero_shot` uses the ImageNet
classifier in the same file instead: cat (5 classes) or dog (118 breeds), whichever is more probable. Its accuracy would
be about one half if the file, the network or its preprocessing were wrong.
"""

import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.few_photographs import head_accuracy
from benchmarks.record import arguments, report
from benchmarks.resize import LIMIT, photographs

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BACKBONES = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
BLOCK = 200  # images
DOGS, CATS = slice(151, 269), slice(281, 286)  # of ImageNet's classes


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="a tar of train/<class>/ and test/<class>/")
    parser.add_argument("--edges", type=int, nargs="+", default=(160, 224), help="in pixels")
    parser.add_argument("--images", type=int, help="maximum number of images of train/, and of test/; default: all")
    options = parser.parse_args()
    files, labels, is_test = photographs(options.photographs)
    order = np.random.default_rng(0).permutation(len(files))
    kept = np.sort(np.concatenate([order[is_test[order] == part][: options.images] for part in (False, True)]))
    files, labels, is_test = [files[row] for row in kept], labels[kept], is_test[kept]
    result: dict[str, Any] = {"photographs": {"train": int((~is_test).sum()), "test": int(is_test.sum())}}
    for edge in options.edges:
        features, speeds = _features(files, edge)
        result[f"{edge}_pixels"] = {
            name: {
                "test_accuracy": round(_head_accuracy(features[name], labels, is_test), 4),
                "zero_shot": round(_zero_shot_accuracy(name, features[name], labels), 4),
                "images_per_second": round(statistics.median(speeds[name]), 1),
                "time_of_lite0": round(
                    statistics.median(
                        first / own for first, own in zip(speeds[BACKBONES[0]], speeds[name], strict=True)
                    ),
                    2,
                ),
            }
            for name in BACKBONES
        }
    report("backbones", result, packages=["onnxruntime", "keras", "numpy", "scipy"], save=options.save)


def _features(files: list[bytes], edge: int) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Return the features of all photographs, and the images per second of every block, by backbone."""
    from darkroom.deployable.images import Form, prepare
    from darkroom.networks.backbones.embedding import Embedder
    from darkroom.networks.backbones.extractor import extractor
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.weights import obtain_weights

    form = Form((edge, edge), "rgb", "crop")
    embedders = {}
    for name in BACKBONES:
        weights = obtain_weights(find_backbone(name), "imagenet")
        network = extractor(name, image_shape=form.image_shape, image_size=form.size, weights=weights)
        embedders[name] = Embedder(network, runtime="onnx")
        next(iter(embedders[name](np.zeros((8, *form.image_shape), np.uint8))))
    features: dict[str, list[np.ndarray]] = {name: [] for name in BACKBONES}
    speeds: dict[str, list[float]] = {name: [] for name in BACKBONES}
    for start in range(0, len(files), BLOCK):
        images = np.stack([prepare(data, form, max_pixels=LIMIT)[0] for data in files[start : start + BLOCK]])
        for name, embedder in embedders.items():
            started = time.perf_counter()
            features[name] += list(embedder(images))
            speeds[name].append(len(images) / (time.perf_counter() - started))
    return {name: np.concatenate(parts) for name, parts in features.items()}, speeds


def _head_accuracy(features: np.ndarray, labels: np.ndarray, is_test: np.ndarray) -> float:
    codes = np.unique(labels, return_inverse=True)[1]
    return head_accuracy(features[~is_test], codes[~is_test], features[is_test], codes[is_test], seed=7)


def _zero_shot_accuracy(name: str, features: np.ndarray, labels: np.ndarray) -> float:
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.torch_checkpoint import read_checkpoint
    from darkroom.networks.backbones.weights import obtain_weights

    path = obtain_weights(find_backbone(name), "imagenet").path
    assert path is not None
    tensors = read_checkpoint(path)
    logits = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    answers = np.where(powers[:, DOGS].sum(axis=1) > powers[:, CATS].sum(axis=1), "dogs", "cats")
    return float((answers == labels).mean())


if __name__ == "__main__":
    main()
