"""How should photographs be resized to one size, and what does decoding large JPEGs at a fraction cost and gain?

    python -m benchmarks.resize --photographs cats_vs_dogs.tar     # 5 minutes on 2 cores

Accuracy: features of EfficientNet-Lite0 (ImageNet weights) of every photograph at 160 pixels in each resize mode, and a
logistic regression on those of train/, its penalty chosen by 5-fold cross-validation, scored on test/. Modes are
compared on the same test images; a difference within its 95 % interval may be chance.

Speed: photographs enlarged to 12 megapixels with noise, saved as JPEG (quality 90), are resized to 224 pixels by one
thread: as `preprocess` does, and decoded in full before the same resize; in turns, median ratio of processor time.
"""

import os
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.record import arguments, report

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
MODES = ("stretch", "letterbox", "crop")
EDGE = 160
LIMIT = 10**9


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="a tar of train/<class>/ and test/<class>/")
    parser.add_argument("--large", type=int, default=12, help="photographs of 12 megapixels")
    options = parser.parse_args()
    files, labels, is_test = photographs(options.photographs)
    correct = {mode: _correct(files, labels, is_test, mode=mode) for mode in MODES}
    result: dict[str, Any] = {
        "photographs": {"train": int((~is_test).sum()), "test": int(is_test.sum())},
        "test_accuracy": {mode: round(float(right.mean()), 4) for mode, right in correct.items()},
        "against_stretch": {mode: _difference(correct[mode], correct["stretch"]) for mode in MODES[1:]},
        "twelve_megapixels": _speed(files[: options.large]),
    }
    report("resize", result, packages=["opencv-python-headless", "onnxruntime", "scikit-learn"], save=options.save)


def photographs(path: Path) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    files, labels, is_test = [], [], []
    with tarfile.open(path) as tar:
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and len(parts) == 3:
                content = tar.extractfile(member)
                assert content is not None
                files.append(content.read())
                labels.append(parts[1])
                is_test.append(parts[0] == "test")
    return files, np.array(labels), np.array(is_test)


def _correct(files: list[bytes], labels: np.ndarray, is_test: np.ndarray, *, mode: str) -> np.ndarray:
    """Return whether each test photograph is classified correctly: (n,), bool."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from darkroom.deployable.images import Form, prepare
    from darkroom.networks.backbones import embedding
    from darkroom.networks.backbones.extractor import extractor
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.weights import obtain_weights

    form = Form((EDGE, EDGE), "rgb", mode, (128, 128, 128))
    images = np.stack([prepare(data, form, max_pixels=LIMIT)[0] for data in files])
    backbone = find_backbone("efficientnet-lite0")
    network = extractor(
        backbone.name, image_shape=form.image_shape, image_size=form.size, weights=obtain_weights(backbone, "imagenet")
    )
    features = np.concatenate([*embedding.Embedder(network, image_size=form.size)(images)])
    head = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-5, 0, 6), cv=5, max_iter=500))
    head.fit(features[~is_test], labels[~is_test])
    return np.asarray(head.predict(features[is_test]) == labels[is_test])


def _difference(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    from darkroom.evaluation.metrics.paired import difference_interval, table

    counts = table(one, other)
    return {"difference": round(counts.difference, 4), "ci95": [round(x, 4) for x in difference_interval(counts)]}


def _speed(files: list[bytes]) -> dict[str, Any]:
    """Return times and pixel differences for large photographs, decoded at a fraction and in full."""
    from darkroom.deployable.images import Form, decode, prepare, resize

    cv2.setNumThreads(1)
    form, rng = Form((224, 224), "rgb"), np.random.default_rng(0)
    ratios, seconds, means, most = [], [], [], 0
    for data in files:
        small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert small is not None
        large = cv2.resize(small, (4000, 3000), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        large += rng.integers(-6, 7, large.shape, dtype=np.int16)  # like a sensor's, or decoding would be too fast
        pixels = np.clip(large, 0, 255).astype(np.uint8)
        photograph = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        times = []
        for _ in range(3):
            start = time.thread_time()
            ours = prepare(photograph, form, max_pixels=LIMIT)[0]
            between = time.thread_time()
            full = resize(decode(photograph, form, max_pixels=LIMIT), form)
            times.append((between - start, time.thread_time() - between))
        ratios.append(statistics.median(whole / part for part, whole in times))
        seconds.append(statistics.median(part for part, _ in times))
        distance = np.abs(ours.astype(int) - full)
        means.append(float(distance.mean()))
        most = max(most, int(distance.max()))
    return {
        "photographs": len(files),
        "times_faster_than_in_full": round(statistics.median(ratios), 2),
        "target": "at least 4 times",
        "milliseconds_a_photograph": round(1000 * statistics.median(seconds), 1),
        "mean_difference_of_255": round(statistics.mean(means), 2),
        "greatest_difference_of_255": most,
    }


if __name__ == "__main__":
    main()
