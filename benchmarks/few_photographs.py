"""Is the default for one's own photographs as good as the obvious alternatives if there are only few?

    DARKROOM_MIRROR=folder python -m benchmarks.few_photographs                                  # 12 minutes on 2 cores
    DARKROOM_MIRROR=folder python -m benchmarks.few_photographs --sizes 20 60 --seeds 0 --skip whole   # a trial run

The directory contains cats_vs_dogs.tar (1,000 photographs of each of two classes) and cifar10_jpeg.tar.xz (ten
classes). Tests use all 1,000 test images of the former, and the first 200 of every class of the latter.

heads: all heads are fitted to the same features, those of the preset `folder`, whose time is not included. A seed draws
    some images of every class. Darkroom uses a tenth of them for validation, as the preset does, and solves its head;
    scikit-learn's logistic regression gets all of them: with C = 1, with the C chosen by five folds, and with the best
    C for the test images, which is unknown in practice. `without_roots` is Darkroom's head on unchanged features;
    `standardised` on each feature divided by its standard deviation; `with_copies` also on one augmented copy of every
    image. Means over the seeds; seconds are processor time, of one thread with OPENBLAS_NUM_THREADS=1; standard_error
    is that of an accuracy on this number of test images. behind is the number of standard errors by which Darkroom is
    behind the best head that does not use the test images: at most a third of one.
whole: from a directory of files to the accuracy on the test images. Darkroom is `dvc repro evaluate` with the preset,
    with a process for every stage, tracking, export and report; fastai is peers/fastai_vision.py: its vision_learner
    with the same backbone and weights, and its fine_tune. It runs in a separate environment:

    uv venv peer && uv pip install --python peer/bin/python fastai==2.8.12 timm==1.0.31
    python -m benchmarks.few_photographs --fastai-python peer/bin/python
"""

import json
import os
import subprocess
import sys
import tarfile
import time
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.mnist import ROOT, clone, seconds, use
from benchmarks.record import arguments, find_mirror, report
from darkroom.cli import presets

PRESET = "folder"
PEER = Path(__file__).parent / "peers" / "fastai_vision.py"
ARCHIVES = {"cats-vs-dogs": "cats_vs_dogs.tar", "cifar10": "cifar10_jpeg.tar.xz"}
N_TRAIN, N_TEST = 1000, {"cats-vs-dogs": 500, "cifar10": 200}  # of every class
PARTS = (*ARCHIVES, "whole")
CS = (0.001, 0.01, 0.1, 1.0, 10.0)  # of scikit-learn
RIVALS = ("scikit_learn", "scikit_learn_cv")


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 60, 300, 1000], help="images of every class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--whole-sizes", type=int, nargs="+", default=[20, 60, 300])
    parser.add_argument("--whole-datasets", nargs="+", choices=ARCHIVES, default=list(ARCHIVES))
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[])
    parser.add_argument("--features", type=Path, help="directory in which features are kept for later runs")
    parser.add_argument("--fastai-python", type=Path, help="an environment with fastai and timm")
    options = parser.parse_args()
    if (mirror := find_mirror("few_photographs", *ARCHIVES.values())) is None:
        return
    warnings.filterwarnings("ignore", module="sklearn")  # fits that have not converged are as good
    result: dict[str, Any] = {}
    python = options.fastai_python.absolute() if options.fastai_python else None
    if options.features:
        options.features = options.features.absolute()
        options.features.mkdir(parents=True, exist_ok=True)
    with clone() as root, chdir(root):
        for name in ARCHIVES:
            if name not in options.skip:
                kept = options.features and options.features / f"{name}.npz"
                result[name] = heads(root, mirror, name, sizes=options.sizes, seeds=options.seeds, kept=kept)
        if "whole" not in options.skip:
            result["whole"] = {
                name: {str(size): whole(root, mirror, name, size=size, python=python) for size in options.whole_sizes}
                for name in options.whole_datasets
            }
    result["target"] = "behind at most 0.33 everywhere; no rival more accurate in less time"
    packages = ["scikit-learn", "scipy", "numpy", "tensorflow", "keras", "onnxruntime"]
    report("few_photographs", result, packages=packages, save=options.save, parts=PARTS)


def take_photographs(
    archive: Path, folder: Path, *, n_train: int, n_test: int, first: int = 0, classes: Collection[str] | None = None
) -> None:
    """Unpack images of all or some classes into [train|test]/<class>/: those of train from number `first` on."""
    wanted = {"train": range(first, first + n_train), "test": range(n_test)}
    numbers: Counter[Path] = Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if member.isfile() and path.parts[0] in wanted and (classes is None or path.parts[1] in classes):
                if numbers[path.parent] in wanted[path.parts[0]]:
                    tar.extract(member, folder, filter="data")
                numbers[path.parent] += 1


def use_folder(root: Path, folder: str, changes: Mapping[str, Any]) -> None:
    """Configure the preset for a directory of images, with other values for some keys."""
    source = {"kind": "path", "path": folder, "layout": "folders"}
    dataset = {"name": folder, "homepage": None, "licence": None, "sources": [source]}
    use(root, PRESET, {"download.dataset": dataset, **changes})


# The heads


@dataclass(frozen=True)
class Photographs:
    """Features of all photographs: (n, D) of those to draw from and of one copy of each, and of those to test on."""

    features: np.ndarray
    copies: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    is_val: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    classes: np.ndarray

    def score(self, scores: np.ndarray) -> float:
        """Return the accuracy of scores of the test images, (n, classes)."""
        return float((scores.argmax(axis=1) == self.test_labels).mean())


def heads(
    root: Path, mirror: Path, name: str, *, sizes: list[int], seeds: list[int], kept: Path | None
) -> dict[str, Any]:
    """Return the accuracies of all heads, by the number of images per class."""
    if kept and kept.exists():
        with np.load(kept) as arrays:
            photographs = Photographs(**arrays)
    else:
        take_photographs(mirror / ARCHIVES[name], root / name, n_train=N_TRAIN, n_test=N_TEST[name])
        use_folder(root, name, {"augment.copies": 1})
        seconds(root, "dvc", "repro", "augment")
        photographs = embedded(root)
        if kept:
            np.savez(kept, **vars(photographs))
    found: dict[str, Any] = {"n_classes": len(photographs.classes), "n_test": len(photographs.test_labels)}
    for size in sizes:
        drawn = seeds if size < N_TRAIN else seeds[:1]  # all of them are drawn
        rows = [head_accuracies(photographs, size=size, seed=seed, with_copies=size <= 300) for seed in drawn]
        found[str(size)] = summary(rows, n_test=found["n_test"])
        print(json.dumps({name: {size: found[str(size)]}}), file=sys.stderr, flush=True)
    return found


def embedded(root: Path) -> Photographs:
    """Return the features of all prepared images, computed by the preset's backbone."""
    from darkroom.data.arrays.dataset import Dataset
    from darkroom.data.arrays.selection import Selection
    from darkroom.networks.backbones.embedding import Embedder

    prepared, augmented = Dataset.open(root / "data" / "prepared"), Dataset.open(root / "data" / "augmented")
    network, image_size = backbone(root, prepared.image_shape)
    embed = Embedder(network, image_size=image_size)

    def features(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        return np.concatenate(list(embed(Selection([(dataset.images, rows)]))))

    index, copied = prepared.index(), augmented.index()
    train, val, test = (prepared.rows(split) for split in ("train", "val", "test"))
    row_of_copy = dict(zip(copied["parent_id"], copied["row"], strict=True))
    rows = np.array([row_of_copy[name] for name in index["id"].iloc[train]])
    return Photographs(
        features(prepared, np.concatenate([train, val])),
        # Validation images have no copies, so they are used themselves.
        np.concatenate([features(augmented, rows), features(prepared, val)]),
        np.concatenate([prepared.labels[train], prepared.labels[val]]),
        index["group"].factorize()[0][np.concatenate([train, val])],
        np.arange(len(train) + len(val)) >= len(train),
        features(prepared, test),
        prepared.labels[test],
        np.array(prepared.classes),
    )


def backbone(root: Path, image_shape: tuple[int, int, int]) -> tuple[Any, tuple[int, int]]:
    """Return the backbone of params.yaml with its weights, on the CPU, and the (height, width) of its input."""
    from darkroom.networks.backbones.extractor import extractor
    from darkroom.networks.runtime.device import prepare
    from darkroom.project.params import read_params

    settings = read_params(root / "params.yaml")["embed"]
    height, width = settings["image_size"]
    prepare("cpu")
    weights = weights_of(settings)
    network = extractor(settings["backbone"], image_shape=image_shape, image_size=(height, width), weights=weights)
    return network, (height, width)


def weights_of(embed: dict[str, Any]) -> Any:
    from darkroom.networks.backbones.table import find_backbone
    from darkroom.networks.backbones.weights import obtain_weights

    return obtain_weights(find_backbone(embed["backbone"]), embed["weights"])


def head_accuracies(photographs: Photographs, *, size: int, seed: int, with_copies: bool) -> dict[str, float]:
    """Return the test accuracy of every head fitted to some images of each class, and how long some of them took."""
    from darkroom.networks.build import root as root_of

    rng, labels = np.random.default_rng(seed), photographs.labels
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:size] for label in range(len(photographs.classes))]
    rows = np.sort(np.concatenate(chosen))
    features, copies, labels = photographs.features[rows], photographs.copies[rows], labels[rows]
    groups, test = photographs.groups[rows], photographs.test
    found = darkrooms(photographs, rows, seed=seed)
    roots, scale = root_of(features), root_of(features).std(axis=0) + 1e-6
    tested = root_of(test), photographs.test_labels
    found |= {
        "without_roots": head_accuracy(features, labels, test, tested[1], groups=groups, seed=seed),
        "standardised": head_accuracy(roots / scale, labels, tested[0] / scale, tested[1], groups=groups, seed=seed),
    }
    if with_copies:
        both, groups = np.concatenate([roots, root_of(copies)]), np.tile(groups, 2)
        found["with_copies"] = head_accuracy(both, np.tile(labels, 2), *tested, groups=groups, seed=seed)
    return found | scikit_learns(photographs, features, labels)


def darkrooms(photographs: Photographs, rows: np.ndarray, *, seed: int) -> dict[str, float]:
    """Return accuracy and seconds of the head that `train` makes from these rows."""
    from darkroom.networks.build import root as root_of
    from darkroom.training import recipe
    from darkroom.training.class_weights import choose_class_weights
    from darkroom.training.data import Vectors
    from darkroom.training.head_phase import solve_head

    is_val, classes = photographs.is_val[rows], photographs.classes.tolist()
    train, val = rows[~is_val], rows[is_val]
    features, labels, groups = photographs.features, photographs.labels, photographs.groups
    params = presets.read(PRESET, root=ROOT)["train"]["transfer"] | {"seed": seed}
    counts = dict(zip(classes, np.bincount(labels[train]).tolist(), strict=True))
    params["class_weights"] = choose_class_weights(counts).value
    data = Vectors(
        *(features[train], labels[train], features[val], labels[val], classes),
        *(groups[train], np.zeros(len(train), bool), groups[val]),
    )
    head = recipe.build_head(params, n_features=features.shape[1], n_classes=len(classes), policy="float32")
    started = time.process_time()
    solve_head(head, params, data)
    spent = time.process_time() - started
    kernel, bias = head.get_weights()
    return {"darkroom": photographs.score(root_of(photographs.test) @ kernel + bias), "darkroom_seconds": spent}


def head_accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int,
    groups: np.ndarray | None = None,
) -> float:
    """Return the test accuracy of a solved head on features that are already transformed.

    Args:
        features, test: (n, D).
        labels, test_labels: (n,), from 0.
        groups: (n,), of images that must share a fold; None: each is alone.
    """
    from darkroom.training.linear_head import solve

    n = len(labels)
    plan = {"weights": np.ones(n), "groups": np.arange(n) if groups is None else groups, "judged": np.ones(n, bool)}
    head = solve(features, np.eye(int(labels.max()) + 1)[labels], **plan, seed=seed)
    return float(((test @ head.kernel + head.bias).argmax(axis=1) == test_labels).mean())


def scikit_learns(photographs: Photographs, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracies of logistic regression, and the seconds of the one with the chosen C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    started = time.process_time()
    search = GridSearchCV(LogisticRegression(max_iter=300), {"C": CS}, scoring="neg_log_loss")
    search.fit(features, labels)
    spent = time.process_time() - started
    of_c = {c: LogisticRegression(C=c, max_iter=300).fit(features, labels) for c in CS}
    accuracies = {c: photographs.score(one.predict_proba(photographs.test)) for c, one in of_c.items()}
    return {
        "scikit_learn": accuracies[1.0],
        "scikit_learn_cv": accuracies[search.best_params_["C"]],
        "scikit_learn_best_c": max(accuracies.values()),
        "scikit_learn_cv_seconds": spent,
    }


def summary(rows: list[dict[str, float]], *, n_test: int) -> dict[str, Any]:
    """Return means, and the number of standard errors by which Darkroom is behind the best other head."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    error = float(np.sqrt(means["darkroom"] * (1 - means["darkroom"]) / n_test))
    behind = (max(means[rival] for rival in RIVALS) - means["darkroom"]) / error
    return {
        **{name: round(value, 2 if name.endswith("seconds") else 4) for name, value in means.items()},
        "standard_error": round(error, 4),
        "behind": round(behind, 2),
        "behind_best_c": round((means["scikit_learn_best_c"] - means["darkroom"]) / error, 2),
        "darkroom_by_seed": [round(row["darkroom"], 4) for row in rows],
        "scikit_learn_best_c_by_seed": [round(row["scikit_learn_best_c"], 4) for row in rows],
    }


# From files to an accuracy


def whole(root: Path, mirror: Path, name: str, *, size: int, python: Path | None) -> dict[str, Any]:
    """Return accuracy and seconds of the preset, and of fastai if there is a Python that has it."""
    from darkroom.project.params import read_params

    folder = f"{name}-{size}"
    take_photographs(mirror / ARCHIVES[name], root / folder, n_train=size, n_test=N_TEST[name])
    use_folder(root, folder, {})
    weights = weights_of(read_params(root / "params.yaml")["embed"])  # fetched before the time is measured
    spent = seconds(root, "dvc", "repro", "evaluate")
    evaluation = json.loads((root / "reports" / "evaluation.json").read_text())
    scores = evaluation["candidates"][evaluation["winner"]]
    found: dict[str, Any] = {
        "darkroom": {
            "test_accuracy": scores["test_accuracy"],
            "seconds": round(spent, 1),
            "train_seconds": json.loads((root / "models" / evaluation["winner"] / "run.json").read_text())[
                "train_seconds"
            ],
        }
    }
    if python:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(python), str(PEER), str(root / folder), str(weights.path)]
        started = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        spent = round(time.perf_counter() - started, 1)
        found["fastai"] = {"seconds": spent, **json.loads(done.stdout.strip().rpartition("\n")[2])}
    print(json.dumps({name: {size: found}}), file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
