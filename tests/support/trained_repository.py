"""A repository in a temporary folder as it stands after `evaluate`: prepared data, one trained candidate, predictions.

Pixel k of an image says its class, except for the images on which it lies; a model that reads pixel k is therefore
wrong on exactly those. No TensorFlow is involved.
"""

import functools
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, event

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.dataset_writer import DatasetWriter
from darkroom.data.arrays.seen import SEEN_FILE, seen_ids, write_seen_ids
from darkroom.deployable.package import Package
from darkroom.evaluation.page import MARKER
from darkroom.registry.snapshot import Version
from darkroom.registry.versions import load
from darkroom.tracking import experiments, runs
from tests.support.onnx_model import write_model

CLASSES = ["cat", "dog"]
SHAPE = (4, 4, 1)
N_TEST = 200
LIES = [range(0), range(4), range(2, 8), range(100), range(0, 40, 2)]  # per pixel: test images on which it is wrong
PARAMS = """\
candidates: [cnn]
train:
  cnn: {}
promote:
  registered_model: pets
  approval: automatic
  from_experiments: false
  hold_days: null
  gates:
    min_test_images: 100
    min_test_accuracy: 0.9
    every_class: {min_recall: 0.1, min_images: 10}
    new_class: {min_recall: 0.5, min_images: 10}
    champion: {margin: 0.0, alpha: 0.05, comparisons: 1, statistic: accuracy}
    champion_recent: null
    class_recall: {max_drop: 0.02, max_unproven_drop: 0.2, alpha: 0.05}
    slice_accuracy: {by: [brightness, size, source, incoming], max_drop: 0.02, alpha: 0.05, min_images: 20}
    max_ece: null
    max_error_answered: null
    min_answered: null
    min_coverage: null
    max_latency_ms_p95: 1000.0
    max_model_bytes: 100000
    max_parity_difference: 0.00001
"""


@functools.cache
def empty_database() -> bytes:
    """MLflow's tables, created once per process: its migrations take 4 s.

    From now on no store of this process waits until the disk has what it wrote, three quarters of the time of a write:
    only a machine that loses its power could lose it, and no test is about that.
    """
    event.listen(Engine, "connect", _do_not_wait_for_the_disk)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", folder)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        experiments.connect("Default")
        return Path(folder, "mlflow.db").read_bytes()


def _do_not_wait_for_the_disk(connection: Any, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def fresh_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `root` a repository with an empty MLflow store and the current folder; return its database file."""
    for name in ("DVC_EXP_NAME", "DVC_STAGE", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it; set here, it is restored
    monkeypatch.chdir(root)
    (root / "mlflow.db").write_bytes(empty_database())
    return root / "mlflow.db"


def prepare(root: Path) -> None:
    """Write params.yaml and data/prepared."""
    (root / "params.yaml").write_text(PARAMS)
    labels = np.arange(N_TEST) % 2
    images = np.zeros((N_TEST, 4, 4, 1), np.uint8)
    flat = images.reshape(N_TEST, 16)
    for pixel, lies in enumerate(LIES):
        says = labels.copy()
        says[list(lies)] ^= 1
        flat[:, pixel], flat[:, pixel + 8] = 255 * says, 255 * (1 - says)
    flat[:, 15] = np.arange(N_TEST)  # so that no two images are equal
    ids = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    index = pd.DataFrame(
        {"row": range(N_TEST), "id": ids, "label": [CLASSES[label] for label in labels], "split": "test"}
    )
    index["group"] = index["id"]
    index["source"] = [f"{name}/{row:03d}.png" for row, name in enumerate(index["label"])]
    index["height"], index["width"], index["incoming"] = 40, 40 + index["row"], index["row"] < 20
    with DatasetWriter(root / "data" / "prepared", image_shape=SHAPE, shard_bytes=1 << 20) as writer:
        writer.append(images)
        writer.finish(index=index, manifest={"dataset": "pets", "classes": CLASSES, "color": "grey"})


# For an image in between both classes are listed.
SETS = {"coverage": 0.9, "threshold": 0.6, "penalty": 0.01, "free": 1, "n_images": 100, "by_folds": False}
UNKNOWN = {"unknown_below": 0.01, "familiarity": {"strangeness": [100.0, 250.0], "share": [0.5, 0.001]}}


def model_reading(pixel: int, path: Path, classes: list[str] | None = None, *, tells: bool = False) -> Path:
    """Write the ONNX model that believes one pixel; one that tells knows no image with a last pixel above 250."""
    weights = np.zeros((16, 2), np.float32)
    weights[pixel, 1] = weights[pixel + 8, 0] = 0.01
    return write_model(
        path,
        classes=classes or CLASSES,
        image_shape=SHAPE,
        weights=weights,
        metadata={"sets": SETS, **(UNKNOWN if tells else {})},
        strangeness=np.eye(16)[15] if tells else None,
    )


def write_candidate(root: Path, *, reads: int, tells: bool = False) -> tuple[Path, Path]:
    """Write the model of the candidate `cnn`, and the ids of the images that it has seen; return both paths."""
    folder = root / "models" / "cnn"
    onnx = model_reading(reads, folder / "model.onnx", tells=tells)
    write_seen_ids(folder / SEEN_FILE, seen_ids(Dataset.open(root / "data" / "prepared")))
    return onnx, folder / SEEN_FILE


def train(root: Path, *, reads: int, experiment: str = "pets", tells: bool = False) -> str:
    """Train (write) the candidate `cnn`, log it, evaluate it; return the URI of its package."""
    onnx, seen = write_candidate(root, reads=reads, tells=tells)
    tags = {"dvc.stage": "train@cnn", "git.commit": "c" * 40, "git.dirty": "false", "candidate": "cnn"}
    with runs.run(experiment=experiment, name="train-cnn", params={"reads": reads}, tags=tags) as run:
        uri = run.log_package(onnx, seen=seen)
    trained = {"run_id": run.id, "experiment": experiment, "tracking_uri": run.tracking_uri, "model_uri": uri}
    lineage = {"git_commit": "c" * 40, "git_dirty": False, "data_digest": "d" * 64, "params_digest": "p" * 64}
    (root / "models" / "cnn" / "run.json").write_text(json.dumps({**trained, **lineage, "candidate": "cnn"}))
    evaluate(root)
    return uri


def evaluate(root: Path) -> None:
    """Write reports/evaluation.json and reports/predictions.parquet for models/cnn/model.onnx."""
    package = Package.load(root / "models" / "cnn" / "model.onnx")
    index = pd.read_parquet(root / "data" / "prepared" / "index.parquet")
    images = np.load(root / "data" / "prepared" / "images-00000.npy")
    probabilities = package.probabilities(images)
    predicted = [package.classes[best] for best in probabilities.argmax(axis=1)]
    frame = index[["split", "id", "label"]].assign(candidate="cnn", predicted=predicted)
    frame["probabilities"] = list(probabilities[:, [package.classes.index(name) for name in CLASSES]])
    (root / "reports").mkdir(exist_ok=True)
    frame.to_parquet(root / "reports" / "predictions.parquet")
    accuracy = float((frame["label"] == frame["predicted"]).mean())
    digest = hashlib.sha256("\n".join(sorted(index["id"])).encode()).hexdigest()
    scores = {
        "test_accuracy": accuracy,
        "test_accuracy_ci95": [accuracy - 0.01, min(1.0, accuracy + 0.01)],
        "test_loss": 0.1,
        "macro_f1": accuracy,
        "ece": 0.01,
        "per_class": {},
        "latency_ms_p50": 0.1,
        "latency_ms_p95": 0.2,
        "model_bytes": 1000,
        "recent": None,
    }
    report = {"test_ids_sha256": digest, "winner": "cnn", "candidates": {"cnn": scores}}
    (root / "reports" / "evaluation.json").write_text(json.dumps(report))
    (root / "reports" / "evaluation.html").write_text(f"<main>{MARKER}</main>")


def answers_here(version: Version, images: np.ndarray, expected: np.ndarray, *, tolerance: float) -> float:
    """Stand in for register.verify where a test is about something else: the fresh process takes 5 s."""
    return float(np.abs(load(version).probabilities(images) - expected).max())


def clean_environment() -> dict[str, str]:
    """The environment for a child process that must find things by itself."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST_"))}


def forget_store(root: Path) -> None:
    """Remove the MLflow store with all artifacts, as in a fresh clone."""
    (root / "mlflow.db").write_bytes(empty_database())
    shutil.rmtree(root / "mlartifacts")
