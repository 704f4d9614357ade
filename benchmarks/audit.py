"""How many wrong labels do `darkroom audit` and cleanlab find? 3 % of the labels are made wrong at random.

    DARKROOM_MIRROR=folder python -m benchmarks.audit                    # computes the features first: 12 minutes
    DARKROOM_MIRROR=folder python -m benchmarks.audit --keep features    # and keeps them there for later runs
    DARKROOM_MIRROR=folder python -m benchmarks.audit --sets cats-vs-dogs --seeds 0    # a trial run

Needs cleanlab (`uv pip install cleanlab==2.9.0`), which Darkroom does not depend on. Both sides get the same features
of a frozen EfficientNet-Lite0 and the same labels, one after the other in one process. Cleanlab is used as in its
documentation: out-of-fold probabilities of scikit-learn's LogisticRegression in 5 folds, and find_label_issues.

recall_at_n: the share of the n wrong labels among the n most suspected ones, which is also their precision.
corrected: a head is solved on the wrong labels, and on the labels after the n most suspected ones were reviewed; both
are scored on validation images, whose labels are right, and compared by McNemar's test.
without_backbone: the same digits judged by their pixels, and by the preset's network, trained 3 times without the
images that it judges; its `corrected` is that of this network.
many: the time of an audit of 50,000 rows: the features of CIFAR-10, repeated with noise, which changes the answers but
not the time.
"""

import json
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mnist import ROOT, clone, seconds, use
from benchmarks.record import arguments, report
from darkroom.audit import findings, pixels
from darkroom.audit.material import Vectors
from darkroom.audit.run import N_FOLDS
from darkroom.cli import presets
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.data.arrays.selection import Selection
from darkroom.evaluation.metrics import paired
from darkroom.training import folds
from darkroom.training.data import Data
from darkroom.training.linear_head import solve

WRONG = 0.03
FIRST = 50
MANY = 50_000
ALL = {"embed.max_images": 20_000, "augment.copies": 0}
CIFAR = {
    "download.dataset": "cifar10-jpeg",
    "preprocess.val_fraction": 0.1,
    "embed.backbone": "efficientnet-lite0",
    "embed.weights": "imagenet",
}
SETS: dict[str, tuple[str, dict[str, Any]]] = {  # a preset, and the changes to it
    "cats-vs-dogs": (
        "cats-vs-dogs",
        {**ALL, "download.dataset": "cats-vs-dogs-small", "preprocess.val_fraction": 0.3},
    ),
    "mnist": ("mnist", ALL),
    "cifar10": ("cifar10", {**ALL, **CIFAR, "embed.image_size": [96, 96]}),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the wrong labels")
    parser.add_argument("--keep", type=Path, help="directory for prepared images and features")
    options = parser.parse_args()
    os.environ["DARKROOM_MIRROR"] = str(Path(os.environ.get("DARKROOM_MIRROR", ".")).resolve())
    result = {}
    with ExitStack() as stack:
        kept = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in options.sets:
            make(name, kept / name)
            runs = [one_run(kept / name, seed=seed) for seed in options.seeds]
            result[name] = {"seeds": options.seeds, **means(runs), "corrected": corrected(kept / name, seed=0)}
            if name == "mnist":
                result[name]["without_backbone"] = without_backbone(kept / name, seed=0)
            if name == "cifar10":
                result[name]["many"] = many(kept / name)
    target = {"target": "recall_at_n at least that of cleanlab, in less time"}
    packages = ["cleanlab", "scikit-learn", "scipy", "numpy"]
    report("audit", {"wrong": WRONG, **target, **result}, packages=packages, save=options.save, parts=list(SETS))


def make(name: str, folder: Path) -> None:
    """Prepare the images of a dataset, and compute the features of all training and validation images."""
    settings, made = json.dumps(SETS[name]), folder / "settings.json"
    if (folder / "features").exists():
        if not made.exists() or made.read_text() != settings:
            raise SystemExit(f"{folder} was made with other settings; delete it")
        return
    preset, changes = SETS[name]
    with clone() as root:
        use(root, preset, changes)
        seconds(root, "dvc", "repro", "embed")
        for part in ("prepared", "features"):
            shutil.copytree(root / "data" / part, folder / part)
    made.write_text(settings)


def read(folder: Path, split: str) -> Vectors:
    features = Features.open(folder / "features")
    rows = features.rows(split)
    return Vectors(rows[:, 1], np.array(features.arrays(split)[0]), rows[:, 2], split)


def made_wrong(labels: np.ndarray, *, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, some of them changed, and which ones are."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(WRONG * len(labels)), replace=False)
    changed = labels.copy()
    changed[rows] = (labels[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
    return changed, rows


def one_run(folder: Path, *, seed: int) -> dict[str, dict[str, float]]:
    """Return the findings and seconds of each side."""
    dataset, vectors = Dataset.open(folder / "prepared"), read(folder, "train")
    n_classes = len(dataset.classes)
    labels, wrong = made_wrong(dataset.labels[vectors.rows], n_classes=n_classes, seed=seed)
    everywhere = dataset.labels.copy()
    everywhere[vectors.rows] = labels

    import scipy.optimize  # noqa: F401 - imported before the time is measured
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from joblib import parallel_config
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from threadpoolctl import threadpool_limits

    with Clock() as clock:
        judged = findings.by_vectors(vectors, everywhere, n_classes=n_classes)
    ours = clock.seconds | measured(judged.verdicts.quality, np.flatnonzero(judged.verdicts.is_suspect), wrong)

    # Folds in threads, one core each, as in Darkroom.
    with Clock() as clock, parallel_config("threading", n_jobs=-1), threadpool_limits(1, user_api="blas"):
        answers = cross_val_predict(LogisticRegression(), vectors.values, labels, cv=5, method="predict_proba")
        issues = np.flatnonzero(find_label_issues(labels, answers, n_jobs=1))
        quality = get_label_quality_scores(labels, answers)
    return {"darkroom": ours, "cleanlab": clock.seconds | measured(quality, issues, wrong)}


def without_backbone(folder: Path, *, seed: int) -> dict[str, Any]:
    """Return the findings by pixels, and by networks trained in folds."""
    dataset, vectors = Dataset.open(folder / "prepared"), read(folder, "train")
    labels, wrong = made_wrong(dataset.labels[vectors.rows], n_classes=len(dataset.classes), seed=seed)
    everywhere = dataset.labels.copy()
    everywhere[vectors.rows] = labels
    found = {}
    for name in ("pixels", "network"):
        with Clock() as clock:
            copies = pixels.small_copies(dataset.images, vectors.rows)
            of_pixels = vectors._replace(values=pixels.waves(copies, seed=0))
            said = network_answers(dataset, of_pixels, labels) if name == "network" else None
            judged = findings.by_vectors(of_pixels, everywhere, n_classes=len(dataset.classes), probabilities=said)
        suspects = np.flatnonzero(judged.verdicts.is_suspect)
        found[name] = clock.seconds | measured(judged.verdicts.quality, suspects, wrong)
    after = looked_at(judged.verdicts.quality, labels, dataset.labels[vectors.rows], n=len(wrong))
    right = [network_right(folder, own) for own in (labels, after, dataset.labels[vectors.rows])]
    return {"seed": seed, "folds": N_FOLDS, **rounded(found), "corrected": compared(*right)}


def network_right(folder: Path, own: np.ndarray) -> np.ndarray:
    """Return which validation images the preset's network, trained on these labels, classifies correctly."""
    from darkroom.networks.inference import right
    from darkroom.training.candidate import train_candidate

    dataset, rows, val_rows = Dataset.open(folder / "prepared"), read(folder, "train").rows, read(folder, "val").rows
    chosen = Selection([(dataset.images, rows)]), own, Selection([(dataset.images, val_rows)]), dataset.labels[val_rows]
    data = Data(*chosen, dataset.classes)
    model = train_candidate({**network(), "checkpoint": "last"}, data=data, image_shape=dataset.image_shape).model
    return right(model, data.val_images, data.val_labels, batch_size=256)


def network() -> dict[str, Any]:
    return dict(presets.read("mnist", root=ROOT)["train"]["cnn"])


def network_answers(dataset: Dataset, vectors: Vectors, labels: np.ndarray) -> np.ndarray:
    return folds.out_of_fold(
        network(),
        Selection([(dataset.images, vectors.rows)]),
        labels,
        groups=vectors.groups,
        classes=dataset.classes,
        n_folds=N_FOLDS,
        device="auto",
        say=lambda _line: None,
    )


def many(folder: Path) -> dict[str, Any]:
    """Return how long the audit of MANY rows takes."""
    dataset, vectors = Dataset.open(folder / "prepared"), read(folder, "train")
    rng = np.random.default_rng(0)
    rows = np.resize(np.arange(len(vectors.rows)), MANY)
    noise = 0.3 * vectors.values.std(axis=0) * rng.normal(size=(MANY, vectors.values.shape[1])).astype(np.float32)
    more = Vectors(np.arange(MANY), vectors.values[rows] + noise, np.arange(MANY), "")
    labels, _ = made_wrong(dataset.labels[vectors.rows][rows], n_classes=len(dataset.classes), seed=0)
    with Clock() as clock:
        findings.by_vectors(more, labels, n_classes=len(dataset.classes))
    return {"n_images": MANY, **rounded({"darkroom": clock.seconds}), "target": "60 s on 2 cores"}


class Clock:
    """The duration and the CPU time of a block; other programs affect the CPU time only little."""

    seconds: dict[str, float]

    def __enter__(self) -> "Clock":
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._started
        self.seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measured(quality: np.ndarray, found: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    ranked = np.argsort(quality, kind="stable")
    is_wrong = np.isin(np.arange(len(quality)), wrong)
    return {
        "n_wrong": len(wrong),
        "recall_at_n": float(is_wrong[ranked[: len(wrong)]].mean()),
        f"precision_of_first_{FIRST}": float(is_wrong[ranked[:FIRST]].mean()),
        "n_suspects": len(found),
        "precision_of_suspects": float(is_wrong[found].mean()) if len(found) else 0.0,
    }


def means(runs: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    return rounded(
        {side: {key: float(np.mean([run[side][key] for run in runs])) for key in runs[0][side]} for side in runs[0]}
    )


def rounded(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {side: {key: round(value, 4) for key, value in values.items()} for side, values in found.items()}


def corrected(folder: Path, *, seed: int) -> dict[str, Any]:
    """Return the accuracy of a head on wrong labels, and after a review of the n most suspected ones."""
    dataset, vectors, held_out = Dataset.open(folder / "prepared"), read(folder, "train"), read(folder, "val")
    n_classes = len(dataset.classes)
    truth = dataset.labels[vectors.rows]
    labels, wrong = made_wrong(truth, n_classes=n_classes, seed=seed)
    everywhere = dataset.labels.copy()
    everywhere[vectors.rows] = labels
    quality = findings.by_vectors(vectors, everywhere, n_classes=n_classes).verdicts.quality
    after = looked_at(quality, labels, truth, n=len(wrong))

    def right(own: np.ndarray) -> np.ndarray:
        head = solve(
            vectors.values,
            np.eye(n_classes)[own],
            weights=np.ones(len(own)),
            groups=vectors.groups,
            judged=np.ones(len(own), bool),
            seed=7,
        )
        answers = (held_out.values @ head.kernel + head.bias).argmax(axis=1)
        return np.asarray(answers == dataset.labels[held_out.rows])

    return compared(right(labels), right(after), right(truth))


def looked_at(quality: np.ndarray, labels: np.ndarray, truth: np.ndarray, *, n: int) -> np.ndarray:
    """Return the labels after the n most suspected ones were reviewed."""
    suspects = np.argsort(quality, kind="stable")[:n]
    after = labels.copy()
    after[suspects] = truth[suspects]
    return after


def compared(before: np.ndarray, later: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    """Return the accuracies on wrong, corrected and right labels, and whether the second beats the first by chance."""
    counts = paired.table(later, before)
    return {
        "n_images": len(before),
        "accuracy_on_wrong_labels": round(float(before.mean()), 4),
        "accuracy_after_correction": round(float(later.mean()), 4),
        "accuracy_on_right_labels": round(float(best.mean()), 4),
        "only_after_correction_right": counts.only_a,
        "only_before_right": counts.only_b,
        "p_value": paired.gain_p_value(counts.only_a, counts.only_b)[0],
    }


if __name__ == "__main__":
    main()
