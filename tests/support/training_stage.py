"""A stage that trains, in a process of its own or in this one, on sixteen-pixel images, with a real MLflow store."""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.data.arrays.features import write_none
from tests.support.project import ROOT
from tests.support.shades import write_shades
from tests.support.trained_repository import empty_database

LEFT_OUT = ("MLFLOW_", "DVC_", "DARKROOM_", "TF_CPP")
SHAPE = (16, 16, 1)
TRAIN = """\
train:
  cnn:
    architecture: {name: compact, filters: [4, 8], stem_kernel_size: 3, head: flatten, dropout: 0.1}
    output: softmax
    epochs: 4
    batch_size: 16
    optimizer: {name: sgd, momentum: 0.9, weight_decay: 0.0005, clip_norm: null}
    learning_rate: 0.1
    schedule: {name: one_cycle, warmup: 0.2}
    label_smoothing: 0.1
    class_weights: none
    averaging: 0.0
    early_stopping: null
    checkpoint: best
    train_augmentation: {shift: 1, shift_fill: zero, flip: none, cutout: 0, erasing: 0.0, mixup: 0.0, cutmix: 0.0}
    test_time_views: one
    calibration: temperature
    abstain: null
    sets: null
    unknown_below: null
    precision: float32
    debug: {overfit_one_batch: false, max_steps: null}
    seed: 7
compute: {backend: auto, cluster: null, workers: auto, device: cpu}
"""


def train_section(**changes: str) -> str:
    """Return the sections `train` and `compute`; changes are key=value of settings as they stand in TRAIN."""
    text = TRAIN
    for key, value in changes.items():
        text, found = re.subn(rf"\b{key}: [^,}}\n]+", f"{key}: {value}", text)
        assert found == 1, key
    return text


class TrainingStage:
    """Pictures, no features and an empty store in a directory, in which a module of pipelines can be run."""

    def __init__(self, root: Path, module: str, *arguments: str) -> None:
        self.root = root
        inputs = ["--prepared", "prepared", "--augmented", "augmented", "--features", "features"]
        self.arguments = [*inputs, *arguments]
        self._command = [sys.executable, "-m", module, *self.arguments]
        write_shades(root / "prepared", splits=["train"] * 160 + ["val"] * 40, shape=SHAPE)
        write_shades(root / "augmented", splits=["train"] * 64, shape=SHAPE)
        write_none(root / "features")
        (root / "mlflow.db").write_bytes(empty_database())

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(LEFT_OUT)}
        return subprocess.Popen(
            self._command,
            cwd=self.root,
            env={**inherited, "PYTHONPATH": str(ROOT), "DVC_ROOT": str(self.root), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *, status: int = 0, **environment: str) -> str:
        """Return what the stage printed, stdout and stderr together; fail unless it ends with `status`."""
        process = self.start(**environment)
        printed, _ = process.communicate()
        assert process.returncode == status, printed
        return printed

    def call(self, main: Callable[[], None], **environment: str) -> None:
        """Run the stage in this process, which keeps TensorFlow and MLflow: a process of its own takes 10 s to load."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(LEFT_OUT)]:
                patch.delenv(name)
            for name, value in {"DVC_ROOT": str(self.root), "MLFLOW_TRACKING_URI": "", **environment}.items():
                patch.setenv(name, value)
            patch.chdir(self.root)
            patch.setattr(sys, "argv", ["stage", *self.arguments])
            main()

    def query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.root / "mlflow.db", timeout=20)) as connection:
            return connection.execute(sql, values).fetchall()
