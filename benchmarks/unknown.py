"""Does a model detect images of other kinds? Familiarity against the usual scores, its false alarms and its cost.

    DARKROOM_MIRROR=folder python -m benchmarks.unknown                                # 8 minutes on 2 cores
    DARKROOM_MIRROR=folder python -m benchmarks.unknown --models digits --epochs 1     # a trial run

The directory contains cats_vs_dogs.tar and cifar10_jpeg.tar.xz; without access to Fashion-MNIST garments are left out.
Three models are trained by `dvc repro` in a clone, with `unknown_below`: the default network on MNIST, the preset
cats-vs-dogs, and the preset folder on CIFAR-10 without three of its classes.

auroc: the area under the ROC curve of known test images against images of another kind: `far` ones have nothing to do
    with the classes, `near` ones are similar. Files are read by Package.image, as in serving; noise, blank and rotated
    images are made at the size of the network.
    familiarity and maximum_softmax are outputs of the ONNX file. The others are computed from logits and features of
    model.keras: the energy (Liu et al. 2020), the distance to the 50th nearest training image (Sun et al. 2022), the
    Mahalanobis distance (Lee et al. 2018) and the relative one (Ren et al. 2021).
false_alarms: the share of known test images below a level, which should equal the level, with its 95 % interval; found:
    the share of images of other kinds below it.
latency_ratio: ratio of the median times of one image with and without the second output, in turns; onnx_bytes_added:
    the difference of the sizes.
drift: windows of digits, a share of them rotated by 90 degrees, so that brightness, contrast and size are the same: the
    share of windows in which `darkroom drift` detects it, with and without familiarity.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.few_photographs import take_photographs
from benchmarks.mnist import clone, seconds, use
from benchmarks.record import arguments, find_mirror, report
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.deployable.package import Package
from darkroom.evaluation.metrics.classification import accuracy_interval
from darkroom.monitoring import drift, measures

PHOTOGRAPHS, CIFAR = "cats_vs_dogs.tar", "cifar10_jpeg.tar.xz"
LEVELS = (0.05, 0.005)
CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LEFT_OUT = ("bird", "horse", "truck")  # two animals and one vehicle
N_STRANGERS = 400  # of each kind, at most
N_KNOWN = 2000  # images for testing, likewise
SHARES, N_WINDOWS, WINDOW = (0.0, 0.05, 0.1, 0.2, 0.5), 20, 1000
TURNED = [2, 3, 4, 5, 6, 7, 9]  # not similar to any digit when rotated by 90 degrees
PACKAGES = ["tensorflow", "keras", "onnxruntime", "opencv-python-headless", "scipy", "scikit-learn"]


class Model(NamedTuple):
    """A preset, its candidate, and the changes to it."""

    preset: str
    candidate: str
    changes: dict[str, Any]


FOLDER = {"kind": "path", "path": "pictures", "layout": "folders"}
WITHOUT = {"name": "cifar10-left-out", "homepage": None, "licence": None, "sources": [FOLDER]}
MODELS = {
    "digits": Model("mnist", "cnn", {"candidates": ["cnn"], "embed.backbone": "none", "embed.weights": "none"}),
    "cats-vs-dogs": Model("cats-vs-dogs", "transfer", {"download.dataset": "cats-vs-dogs-small", "augment.copies": 0}),
    "left-out": Model("folder", "transfer", {"download.dataset": WITHOUT, "embed.image_size": [160, 160]}),
}


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--epochs", type=int, help="of the network of digits, for a trial run")
    options = parser.parse_args()
    if (mirror := find_mirror("unknown", PHOTOGRAPHS, CIFAR)) is None:
        return
    result: dict[str, Any] = {}
    with clone() as root:
        take_photographs(mirror / CIFAR, root / "cifar", n_train=1000, n_test=N_STRANGERS)
        take_photographs(mirror / PHOTOGRAPHS, root / "photographs", n_train=0, n_test=N_STRANGERS)
        for name in options.models:
            model = MODELS[name]
            epochs = {"train.cnn.epochs": options.epochs} if options.epochs and name == "digits" else {}
            level = {f"train.{model.candidate}.unknown_below": LEVELS[-1]}
            if name == "left-out":
                leave_out(root / "cifar", root / "pictures")
            if name == "digits":
                fetch_garments(root)
            use(root, model.preset, {**model.changes, "tune.trials": 0, **level, **epochs})
            seconds(root, "dvc", "repro", f"train@{model.candidate}")
            command = [sys.executable, "-m", "benchmarks.unknown", "--measure", name]
            done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
            result[name] = json.loads(done.stdout.strip().rpartition("\n")[2])
            print(json.dumps({name: result[name]}), file=sys.stderr, flush=True)
    targets = {"far": "at least 0.95", "near": "at least 0.85", "latency_ratio": "at most 1.1"}
    result["targets"] = {
        **targets,
        "onnx_bytes_added": "at most 2 MB",
        "false_alarms": "the level, within its interval",
    }
    report("unknown", result, packages=PACKAGES, save=options.save, parts=list(MODELS))


# Images


def leave_out(everything: Path, known: Path) -> None:
    """Link the images of all classes except those left out."""
    for folder in everything.glob("*/*"):
        if folder.name not in LEFT_OUT:
            shutil.copytree(folder, known / folder.parent.name / folder.name, copy_function=os.link)


def fetch_garments(root: Path) -> None:
    """Write test images of Fashion-MNIST to garments.npy if they can be downloaded."""
    use(root, "fashion-mnist", {})
    if subprocess.run(["dvc", "repro", "preprocess"], cwd=root, capture_output=True).returncode == 0:
        dataset = Dataset.open(root / "data" / "prepared")
        np.save(root / "garments.npy", dataset.images[spread(dataset.rows("test"), N_STRANGERS)])


def spread(rows: np.ndarray, n: int) -> np.ndarray:
    """Return at most n of the rows, evenly spread."""
    return np.asarray(rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))])


def turned(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(images, axes=(1, 2)))


def strangers(name: str, package: Package, dataset: Dataset) -> dict[str, dict[str, np.ndarray]]:
    """Return images of other kinds as input of the network: far or near -> kind -> uint8 (n, H, W, C)."""
    rng = np.random.default_rng(0)

    def of_files(folder: str, classes: Sequence[str]) -> np.ndarray:
        each = N_STRANGERS // len(classes)
        files = [file for one in classes for file in sorted(Path(folder).glob(f"test/{one}/*"))[:each]]
        return np.stack([package.image(file) for file in files])

    shape = package.image_shape
    far = {
        "noise": rng.integers(0, 256, (N_STRANGERS, *shape), np.uint8),
        "blank": np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, *shape)),
    }
    if name == "digits":
        far |= {"photographs": of_files("photographs", ["cats", "dogs"]), "cifar10": of_files("cifar", CIFAR_CLASSES)}
        if (garments := Path("garments.npy")).exists():
            far["garments"] = np.load(garments)
        rows = dataset.rows("test")
        rows = spread(rows[np.isin(dataset.labels[rows], TURNED)], N_STRANGERS)
        return {"far": far, "near": {"turned_digits": turned(dataset.images[rows])}}

    from sklearn.datasets import load_digits

    digits = (255 * load_digits().images[:N_STRANGERS] / 16).astype(np.uint8)
    far["digits"] = np.stack([package.image(digit) for digit in digits])
    if name == "left-out":
        return {"far": far, "near": {one: of_files("cifar", [one]) for one in LEFT_OUT}}
    far["vehicles"] = of_files("cifar", ["airplane", "automobile", "ship", "truck"])
    return {"far": far, "near": {"animals": of_files("cifar", ["bird", "deer", "frog", "horse"])}}


# Measurements


def measure(name: str) -> dict[str, Any]:
    """Return the measurements of a model that was trained here."""
    folder = Path("models", MODELS[name].candidate)
    package, dataset = Package.load(folder / "model.onnx"), Dataset.open(Path("data/prepared"))
    rows = spread(dataset.rows("test"), N_KNOWN)
    known, others = dataset.images[rows], strangers(name, package, dataset)
    scores = Scores(folder, package, dataset)
    of_known = scores.of(known)
    found: dict[str, Any] = {
        "n_train": len(dataset.rows("train")),
        "n_val": len(dataset.rows("val")),
        "n_test": len(rows),
        "test_accuracy": round(float((package.probabilities(known).argmax(axis=1) == dataset.labels[rows]).mean()), 4),
    }
    alarms: dict[str, Any] = {str(level): rate_below(level, of_known["familiarity"]) for level in LEVELS}
    areas: dict[str, dict[str, Any]] = {}
    seen: dict[str, dict[str, Any]] = {}
    for distance, kinds in others.items():
        of_kinds = {kind: scores.of(images) for kind, images in kinds.items()}
        if len(of_kinds) > 1:
            of_kinds["all"] = {score: np.concatenate([one[score] for one in of_kinds.values()]) for score in of_known}
        areas[distance] = {
            kind: {score: area(of_known[score], values) for score, values in one.items()}
            for kind, one in of_kinds.items()
        }
        seen[distance] = {
            kind: {level: round(float((-one["familiarity"] < float(level)).mean()), 3) for level in alarms}
            for kind, one in of_kinds.items()
        }
    found |= {"auroc": areas, "false_alarms": alarms, "found": seen, **cost(folder / "model.onnx", known[0])}
    return found | ({"drift": of_drift(package, dataset)} if name == "digits" else {})


def area(known: np.ndarray, strange: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    is_strange = np.repeat([0, 1], [len(known), len(strange)])
    return round(float(roc_auc_score(is_strange, np.concatenate([known, strange]))), 4)


def rate_below(level: float, strangeness: np.ndarray) -> dict[str, Any]:
    """Return the share of images whose familiarity is below a level, and its interval."""
    below = -strangeness < level
    return {"share": round(float(below.mean()), 5), "ci95": [round(end, 5) for end in accuracy_interval(below)]}


class Scores:
    """Scores of images, by name: (n,), greater for stranger images."""

    def __init__(self, folder: Path, package: Package, dataset: Dataset) -> None:
        import keras

        from darkroom.networks.build import FEATURES

        model = keras.models.load_model(folder / "model.keras")
        outputs = [model.get_layer("temperature").input, model.get_layer(FEATURES).output]
        self._package, self._network = package, keras.Model(model.input, outputs)
        if folder.name == "transfer":
            features, labels = Features.open(Path("data/features")).arrays("train")
            rows = spread(np.arange(len(labels)), 5000)
            features, labels = features[rows], labels[rows]
        else:
            rows = spread(dataset.rows("train"), 5000)
            features, labels = self._described(dataset.images[rows])[1], dataset.labels[rows]
        self._near = of_length_1(features)
        self._mean = features.mean(axis=0)
        self._centres = np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])
        within = features - self._centres[np.unique(labels, return_inverse=True)[1]]
        self._precision, self._background = (inverse(one) for one in (within, features - self._mean))

    def of(self, images: np.ndarray) -> dict[str, np.ndarray]:
        probabilities, familiarity = self._package.answers(images, batch_size=16)
        assert familiarity is not None
        logits, features = self._described(images)
        apart = [quadratic(features - centre, self._precision) for centre in self._centres]
        nearest = of_length_1(features) @ self._near.T
        k = min(50, nearest.shape[1])
        return {
            "familiarity": -familiarity,
            "maximum_softmax": -probabilities.max(axis=1),
            "energy": -np.logaddexp.reduce(logits, axis=1),
            "nearest_50": -np.partition(nearest, -k, axis=1)[:, -k],
            "mahalanobis": np.min(apart, axis=0),
            "relative_mahalanobis": np.min(apart, axis=0) - quadratic(features - self._mean, self._background),
        }

    def _described(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [self._network.predict_on_batch(images[start : start + 64]) for start in range(0, len(images), 64)]
        logits, features = zip(*parts, strict=True)
        return np.concatenate(logits), np.concatenate(features)


def of_length_1(features: np.ndarray) -> np.ndarray:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6))


def inverse(centred: np.ndarray) -> np.ndarray:
    """Return the inverse of the covariance, with a thousandth of the mean variance added to its diagonal."""
    covariance = centred.T.astype(np.float64) @ centred / len(centred)
    return np.linalg.inv(covariance + 1e-3 * covariance.diagonal().mean() * np.eye(len(covariance)))


def quadratic(features: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(((features @ matrix) * features).sum(axis=1))


def cost(path: Path, image: np.ndarray) -> dict[str, Any]:
    """Return the cost of the second output: a ratio of latencies, and bytes."""
    import onnx

    whole = onnx.load(path)
    metadata = json.loads(whole.metadata_props[0].value)
    del metadata["unknown_below"], metadata["familiarity"]
    graph = whole.graph
    without = onnx.utils.Extractor(whole).extract_model([graph.input[0].name], [graph.output[0].name])
    onnx.helper.set_model_props(without, {"darkroom": json.dumps(metadata)})
    onnx.save(without, bare := path.with_name("without.onnx"))
    packages, times = [Package.load(one) for one in (path, bare)], [list[float](), list[float]()]
    for turn in range(10):
        for number in (0, 1) if turn % 2 else (1, 0):
            times[number] += packages[number].latencies_ms(image, repeats=30, warm_up=5).tolist()
    told, bare_ms = (float(np.median(one)) for one in times)
    return {
        "latency_ms": round(told, 3),
        "latency_ratio": round(told / bare_ms, 3),
        "onnx_bytes": path.stat().st_size,
        "onnx_bytes_added": path.stat().st_size - bare.stat().st_size,
    }


def of_drift(package: Package, dataset: Dataset) -> dict[str, Any]:
    """Return the share of windows in which a measure has drifted, by the share of rotated images."""
    rows = dataset.rows("test")
    before, after = rows[::2], rows[1::2]
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    reference = sample(package, dataset.images[before])
    for share in SHARES:
        drifted: list[str] = []
        for _ in range(N_WINDOWS):
            images = dataset.images[rng.choice(after, WINDOW, replace=False)]
            images[: round(share * WINDOW)] = turned(images[: round(share * WINDOW)])
            checks = drift.compare(reference, sample(package, images)).checks
            names = {check.name for check in checks if check.drifted}
            drifted += [*names, *(["any other"] if names - {"familiarity"} else [])]
        found[str(share)] = {name: drifted.count(name) / N_WINDOWS for name in ("familiarity", "any other")}
    return found


def sample(package: Package, images: np.ndarray) -> drift.Sample:
    probabilities, familiarity = package.answers(images)
    assert familiarity is not None
    looks = [measures.features(image) for image in images]
    told = {name: np.array([one[name] for one in looks]) for name in measures.FEATURES}
    told |= {"confidence": probabilities.max(axis=1), "familiarity": familiarity}
    return drift.Sample(told, np.array(package.classes)[probabilities.argmax(axis=1)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
