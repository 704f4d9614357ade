"""The winner of an evaluation: its metrics and its files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.seen import SEEN_FILE
from darkroom.errors import DataError
from darkroom.evaluation.predictions import Predictions, answered_rows, read_predictions
from darkroom.files.writing import checksum, read_json
from darkroom.project.params import digest


@dataclass(frozen=True)
class Winner:
    """The candidate that evaluate chose.

    Attributes:
        metrics: its entry in evaluation.json.
        test_ids_sha256: digest of the test images of its evaluation.
        onnx: its model.onnx; the training's run.json is beside it.
        predictions: predictions.parquet of all candidates.
        prepared, raw, incoming: the directories of the data.
    """

    name: str
    metrics: dict[str, Any]
    test_ids_sha256: str
    onnx: Path
    predictions: Path
    prepared: Path
    raw: Path
    incoming: Path

    @property
    def seen(self) -> Path:
        """The ids of the images that it was trained and tuned on."""
        return self.onnx.with_name(SEEN_FILE)

    @cached_property
    def model_sha256(self) -> str:
        """The sha256 of its model.onnx."""
        return checksum(self.onnx)

    @cached_property
    def test_labels_sha256(self) -> str:
        """The digest of the test images with their labels, which corrections change."""
        answers = self.answers("test")
        pairs = sorted(zip(answers.ids.tolist(), answers.labels.tolist(), strict=True))
        return digest(pairs)

    def answers(self, split: str) -> Predictions:
        """Return its answers on the images of a split, test or recent; there may be no recent ones."""
        return read_predictions(self.predictions, self.name, split=split)

    def images(self, answers: Predictions) -> tuple[Dataset, np.ndarray]:
        """Return the dataset, and the row numbers of the classified images in it."""
        dataset = Dataset.open(self.prepared)
        return dataset, answered_rows(dataset, answers)


def read_winner(
    evaluation: Path,
    *,
    predictions: Path,
    models: Path,
    prepared: Path,
    raw: Path,
    incoming: Path,
    named: list[str],
) -> Winner:
    """Return the winner that evaluation.json names.

    Raises:
        DataError: the evaluation cannot be read, has other candidates than those `named` in params.yaml, or the winner
            has no model.
    """
    evaluated = read_json(evaluation)
    name = evaluated["winner"]
    if name not in named:
        raise DataError(
            f"{evaluation}: the winner is {name!r}, which is not among the candidates ({', '.join(named)}); "
            f"run `dvc repro evaluate`"
        )
    onnx = models / name / "model.onnx"
    if not onnx.is_file():
        raise DataError(f"{onnx.parent}: model.onnx is missing; run `dvc repro train@{name}` first")
    return Winner(
        name=name,
        metrics=evaluated["candidates"][name],
        test_ids_sha256=evaluated["test_ids_sha256"],
        onnx=onnx,
        predictions=predictions,
        prepared=prepared,
        raw=raw,
        incoming=incoming,
    )
