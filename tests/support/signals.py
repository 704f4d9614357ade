"""A repository of real images and real stages around models that need no training: preprocess, evaluate and promote.

Every image carries three signals of its class, each of which one kind of model reads, and each of which lies on some
images. `colour` is lost in grey images, `fine` (a chessboard of single pixels) in smaller ones, `sides` in none.
"""

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from ruamel.yaml import YAML

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.seen import SEEN_FILE, seen_ids, write_seen_ids
from darkroom.registry import register
from darkroom.registry.snapshot import Version
from darkroom.registry.versions import load
from darkroom.tracking import runs
from pipelines import evaluate, preprocess, promote
from tests.support.onnx_model import write_model
from tests.support.project import ROOT
from tests.support.raw_files import write_manifest
from tests.support.trained_repository import answers_here, fresh_store

SIDE = 16  # pixels
PIXEL = bytes(cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes())
CLASSES = ("left", "right")
ALL = {"colour": 1.0, "fine": 1.0, "sides": 1.0}
PATHS = {name: "data/" + name for name in ("raw", "incoming", "prepared")} | {
    "models": "models",
    "predictions": "reports/predictions.parquet",
    "figures": "reports/figures",
    "plots": "reports/plots",
    "page": "reports/evaluation.html",
    "tuning": "reports/tune",
    "data": "reports/data",
    "augment": "reports/augment",
}
STAGES: dict[ModuleType, dict[str, str]] = {
    preprocess: {
        **{name: PATHS[name] for name in ("raw", "incoming")},
        **{"corrections": "data/corrections.csv", "out": "data/prepared", "report": "reports/data"},
    },
    evaluate: {name: path for name, path in PATHS.items() if name not in ("raw", "incoming")}
    | {"out": "reports/evaluation.json"},
    promote: {name: PATHS[name] for name in ("raw", "incoming", "prepared", "models", "predictions", "page")}
    | {"evaluation": "reports/evaluation.json", "out": "reports/promotion.json", "report": "reports/report.html"},
}


def drawn(label: int, *, seed: int, right: dict[str, float] = ALL, inverted: bool = False) -> bytes:
    """Return an image of class 0 or 1 as PNG; `right` has the probability of each signal to tell the class."""
    rng = np.random.default_rng([seed, label])
    says = {name: (label if rng.random() < share else 1 - label) * 2 - 1 for name, share in right.items()}
    image = rng.normal(110, 4, (SIDE, SIDE, 3))
    image += says["fine"] * 12 * (np.indices((SIDE, SIDE)).sum(axis=0) % 2 * 2 - 1)[..., None]
    image[:, : SIDE // 2] += says["sides"] * 12
    image += says["colour"] * np.array([30.0, -15.3, 0.0])  # of one luminance
    pixels = image.round().clip(0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".png", 255 - pixels[..., ::-1] if inverted else pixels[..., ::-1])[1].tobytes())


def weights(signal: str, shape: tuple[int, int, int], *, inverted: bool = False) -> np.ndarray:
    """Return the weights, (pixels, 2), of a model that reads one signal."""
    height, width, channels = shape
    plane = np.zeros((height, width, channels))
    if signal == "colour":
        plane[..., 0], plane[..., 1] = 1, -1
    elif signal == "fine":
        plane += (np.indices((height, width)).sum(axis=0) % 2 * 2 - 1)[..., None]
    else:
        plane[:, : width // 2], plane[:, width // 2 :] = 1, -1
    flat = plane.reshape(-1, 1) * (-1 if inverted else 1) / plane.size / 2
    return np.hstack([-flat, flat])


def by_heart(data: Dataset) -> np.ndarray:
    """Return the weights, (pixels, 2), that are right on every training image: there are more pixels than images."""
    rows = data.rows("train")
    pixels = data.images[rows].reshape(len(rows), -1).astype(float)
    found = np.linalg.lstsq(pixels, data.labels[rows] * 2.0 - 1, rcond=None)[0].reshape(-1, 1)
    return np.hstack([-found, found])


class Signals:
    """The repository, current folder and MLflow's store of this process until the end of the test."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fresh_store(root, monkeypatch)
        monkeypatch.setattr(register, "verify", answers_here)
        # To draw is most of the time that evaluate takes here; tests of its own look at what is drawn.
        monkeypatch.setattr(Figure, "savefig", lambda _figure, target, **_: Path(target).write_bytes(PIXEL))
        self.root, self._patch = root, monkeypatch
        self.params: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
        self.params |= {"candidates": ["cnn"], "train": {"cnn": {}}}
        self.params["preprocess"] |= {"image_size": [SIDE, SIDE], "color": "rgb", "test_fraction": 0.4}
        self.params["evaluate"] |= {"worst_images": 1, "latency_repeats": 5}
        self.params["promote"]["registered_model"] = "signals"
        gates = self.params["promote"]["gates"]
        gates |= dict.fromkeys(("class_recall", "slice_accuracy", "max_ece"))
        of_class = {"min_recall": 0.0, "min_images": 10}
        gates |= {"min_test_images": 50, "min_test_accuracy": 0.5, "every_class": of_class, "new_class": of_class}
        gates["champion"] |= {"statistic": "accuracy", "comparisons": 1}

    def add(
        self, n: int, *, classes: Sequence[str] = CLASSES, first: int = 0, official: bool = False, **options: Any
    ) -> None:
        """Make data/raw of n images of each class; with an official test set of a third of them if that is wanted."""
        raw = self.root / "data" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        with tarfile.open(raw / "images.tar", "w") as tar:
            for number in range(n * len(classes)):
                label = number % len(classes)
                data = drawn(label, seed=first + number, **options)
                part = ("test/" if number // len(classes) % 3 == 0 else "train/") if official else ""
                member = tarfile.TarInfo(f"{part}{classes[label]}/{number:05d}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        write_manifest(raw, "folders")
        manifest = json.loads((raw / "manifest.json").read_text())
        (raw / "manifest.json").write_text(json.dumps({**manifest, "licence": None, "homepage": None}))

    def drop(self, n: int, label: str, code: int, **options: Any) -> None:
        """Put n images of one class into data/incoming."""
        folder = self.root / "data" / "incoming" / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(n):
            (folder / f"{number:05d}.png").write_bytes(drawn(code, seed=50_000 + number, **options))

    def prepare(self, **changes: Any) -> None:
        """Run preprocess with other settings."""
        self.params["preprocess"] |= changes
        self._run(preprocess)

    def train(self, signal: str | None, *, inverted: bool = False) -> None:
        """Make a model of the prepared form that reads a signal, as the stage train leaves it; evaluate it.

        None: it knows the training images by heart.
        """
        data, folder = Dataset.open(self.root / "data" / "prepared"), self.root / "models" / "cnn"
        found = np.zeros((int(np.prod(data.image_shape)), len(data.classes)))
        found[:, :2] = weights(signal, data.image_shape, inverted=inverted) if signal else by_heart(data)
        onnx = write_model(
            folder / "model.onnx",
            classes=data.classes,
            image_shape=data.image_shape,
            weights=found,
            metadata=data.form,
        )
        write_seen_ids(folder / SEEN_FILE, seen_ids(data))
        with runs.run(experiment="signals", name="train-cnn", params={}, tags={"candidate": "cnn"}) as run:
            uri = run.log_package(onnx, seen=folder / SEEN_FILE)
        said: dict[str, Any] = {
            "run_id": run.id,
            "experiment": "signals",
            "tracking_uri": run.tracking_uri,
            "model_uri": uri,
        }
        said |= {"git_commit": "c" * 40, "git_dirty": False, "data_digest": data.manifest["digest"]}
        said |= {"params": {}, "params_digest": "p" * 64, "best_epoch": 0, "val_accuracy": 0.9, "train_seconds": 1.0}
        said |= {"held_out_accuracy": 0.9, "held_out_images": 60}
        (folder / "run.json").write_text(json.dumps(said))
        (folder / "history.csv").write_text("epoch,train_loss,val_loss,train_accuracy,val_accuracy\n0,1,1,0.9,0.9\n")
        self._run(evaluate)

    def promote(self) -> dict[str, Any]:
        """Run promote and return its report."""
        self._run(promote)
        return dict(json.loads((self.root / "reports" / "promotion.json").read_text()))

    def split(self, name: str) -> set[str]:
        """Return the ids of a split of the prepared data."""
        index = Dataset.open(self.root / "data" / "prepared").index()
        return set(index["id"][index["split"] == name])

    def right(self, version: Version) -> float:
        """Return the share of the test images of which a consumer who sends the files gets the right class."""
        data = Dataset.open(self.root / "data" / "prepared")
        index = data.index()
        test = index[index["split"] == "test"]
        with tarfile.open(self.root / "data" / "raw" / "images.tar") as tar:
            files = [tar.extractfile(name).read() for name in test["source"]]  # type: ignore[union-attr]
        answers = load(version).predict(files)
        return float(np.mean([answer["label"] for answer in answers] == test["label"].to_numpy()))

    def _run(self, stage: ModuleType) -> None:
        with (self.root / "params.yaml").open("w") as file:
            YAML().dump(self.params, file)
        arguments = [part for name, path in STAGES[stage].items() for part in (f"--{name}", path)]
        self._patch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()
