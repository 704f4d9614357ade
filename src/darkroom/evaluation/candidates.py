"""The candidates of an evaluation: their files, their scores, and the choice of the winner."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from darkroom.data.arrays.dataset import Dataset
from darkroom.deployable.images import Form
from darkroom.deployable.package import Package
from darkroom.errors import DataError
from darkroom.evaluation.metrics import abstention, classification, prediction_sets
from darkroom.files.writing import read_csv

if TYPE_CHECKING:
    import pandas as pd

GALLERY_SIDE = 160  # pixels; larger images are shrunk to it, smaller ones enlarged by the browser
FEW = 4  # images, half of them right, added to those that a candidate was judged by
CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
ROWS_AT_ONCE = 1024  # images held in memory: 150 MB at 224x224 RGB
RUN_KEYS = {"run_id", "experiment", "tracking_uri", "git_commit", "git_dirty", "data_digest", "best_epoch"}
RUN_KEYS |= {"model_uri", "params", "val_accuracy", "train_seconds", "held_out_accuracy", "held_out_images"}


def choose_winner(trained: Mapping[str, Mapping[str, Any]], *, model_bytes: Mapping[str, int]) -> str:
    """Return the candidate with the best accuracy on images held out from training; of equals, the smallest model.

    Test accuracy does not decide, because the best of several test scores is a biased estimate. If some candidates were
    judged by few validation images and others by folds of the training images too, their accuracies are not equally
    certain, so each is drawn towards 1/2 by FEW images (Agresti & Coull 1998, the centre of a 95 % interval).

    Args:
        trained: run.json by candidate.
        model_bytes: size of model.onnx by candidate.
    """

    def rank(name: str) -> tuple[float, int, str]:
        n_images = trained[name]["held_out_images"]
        n_right = round(trained[name]["held_out_accuracy"] * n_images)
        return -(n_right + FEW / 2) / (n_images + FEW), model_bytes[name], name

    return min(trained, key=rank)


@dataclass(frozen=True)
class Candidate:
    """A model with its answers on the test and recent images.

    Attributes:
        run: run.json of its training.
        history: the columns of its history.csv.
        metrics: its entry in evaluation.json.
        probabilities: (n, classes), float32, for the test images.
        recent_probabilities: the same for the recent images; there may be none.
    """

    name: str
    run: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    metrics: Mapping[str, Any]
    probabilities: np.ndarray
    recent_probabilities: np.ndarray


@dataclass(frozen=True)
class Answer:
    """An answer to show: its image (uint8 (H, W, C)), the image's source, and the prediction."""

    image: np.ndarray
    source: str
    label: str
    predicted: str
    confidence: float

    @property
    def uri(self) -> str:
        """Its image as a data: URI."""
        height, width = self.image.shape[:2]
        scale = GALLERY_SIDE / max(height, width)
        image = self.image[:, :, ::-1] if self.image.shape[2] == 3 else self.image  # OpenCV writes BGR
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return data_uri(cv2.imencode(".png", image)[1].tobytes())


def data_uri(content: bytes, kind: str = "png") -> str:
    """Return an image file as a data: URI, to embed in a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def candidate_folders(models: Path, named: Sequence[str]) -> list[Path]:
    """Return the directories of the named candidates; models left by earlier params are not scored.

    Raises:
        DataError: one of them has no model.
    """
    folders = [models / name for name in named]
    if missing := [folder for folder in folders if not (folder / "model.onnx").is_file()]:
        raise DataError(f"{missing[0]}: model.onnx is missing; run `dvc repro train@{missing[0].name}` first")
    return folders


def read_run(path: Path) -> dict[str, Any]:
    """Return the contents of a training's run.json.

    Raises:
        DataError: it is missing, or was not written by `train`.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        missing = sorted(RUN_KEYS - said.keys())
    except (OSError, ValueError, AttributeError) as error:
        raise _not_whole(path, f"cannot be read ({error})") from None
    if missing:
        raise _not_whole(path, f"lacks {', '.join(missing)}")
    return dict(said)


def read_history(path: Path) -> dict[str, list[float]]:
    """Return the plotted columns of history.csv: epoch and CURVES.

    Raises:
        DataError: it is missing, or was not written by `train`.
    """
    try:
        lines = read_csv(path)
        history = {name: [float(line[name]) for line in lines] for name in ("epoch", *CURVES)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_whole(path, f"cannot be read ({type(error).__name__}: {error})") from None
    if not lines:
        raise _not_whole(path, "has no epochs")
    return history


def score(
    folder: Path,
    run: Mapping[str, Any],
    dataset: Dataset,
    *,
    calibration_bins: int,
    latency_repeats: int,
) -> Candidate:
    """Score a candidate on the test and recent images.

    Args:
        folder: its directory, with model.onnx and history.csv.
        run: its run.json.
        dataset: with at least one test image.
        calibration_bins: of the expected calibration error.
        latency_repeats: number of single-image predictions to time.

    Raises:
        DataError: the model cannot be loaded or belongs to other data, or the history cannot be read.
    """
    path = folder / "model.onnx"
    package = _load(path, dataset)
    test, recent = dataset.rows("test"), dataset.rows("recent")
    (of_test, familiarity), (of_recent, _) = (_answers(package, dataset, rows) for rows in (test, recent))
    options: dict[str, Any] = {"classes": dataset.classes, "calibration_bins": calibration_bins}
    metrics = classification.evaluate(of_test, dataset.labels[test], **options)
    abstained = package.abstains(of_test, familiarity)
    metrics |= abstention.measure(of_test, dataset.labels[test], abstained, classes=dataset.classes)
    if (members := package.prediction_sets(of_test)) is not None:
        metrics |= prediction_sets.measure(members, dataset.labels[test], classes=dataset.classes)
    if familiarity is not None:
        unknown = familiarity < package.unknown_below
        metrics["share_unknown"] = float(unknown.mean())
        metrics["share_unknown_ci95"] = list(classification.accuracy_interval(unknown))
    latencies = package.latencies_ms(dataset.images[int(test[0])], repeats=latency_repeats)
    metrics["latency_ms_p50"], metrics["latency_ms_p95"] = np.quantile(latencies, [0.5, 0.95]).tolist()
    metrics["model_bytes"] = path.stat().st_size
    metrics["recent"] = None
    if len(recent) > 0:
        found = classification.evaluate(of_recent, dataset.labels[recent], **options)
        of_split = {name.removeprefix("test_"): value for name, value in found.items()}
        metrics["recent"] = {"n_images": len(recent), **of_split}
    return Candidate(
        folder.name,
        run=run,
        history=read_history(folder / "history.csv"),
        metrics=metrics,
        probabilities=of_test,
        recent_probabilities=of_recent,
    )


def worst_errors(candidate: Candidate, dataset: Dataset, index: "pd.DataFrame", *, n_errors: int) -> list[Answer]:
    """Return the worst errors with their images; index has the lines of the test images."""
    labels = dataset.labels[index["row"].to_numpy()]
    worst = classification.worst_errors(candidate.probabilities, labels, n_errors=n_errors)
    return _answers_at(worst, candidate, dataset, index)


def least_certain(candidate: Candidate, dataset: Dataset, index: "pd.DataFrame", *, n_answers: int) -> list[Answer]:
    """Return the correct answers of the lowest confidence and their images; index has the lines of the test images."""
    labels = dataset.labels[index["row"].to_numpy()]
    right = np.flatnonzero(candidate.probabilities.argmax(axis=1) == labels)
    order = np.argsort(candidate.probabilities.max(axis=1)[right], kind="stable")
    return _answers_at(right[order[:n_answers]], candidate, dataset, index)


def _answers_at(positions: np.ndarray, candidate: Candidate, dataset: Dataset, index: "pd.DataFrame") -> list[Answer]:
    rows, sources = index["row"].to_numpy(), index["source"].tolist()
    labels, answers = dataset.labels[rows], candidate.probabilities
    return [
        Answer(
            image=dataset.images[int(rows[position])],
            source=str(sources[position]),
            label=dataset.classes[labels[position]],
            predicted=dataset.classes[answers[position].argmax()],
            confidence=float(answers[position].max()),
        )
        for position in positions.tolist()
    ]


def single_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics for MLflow: single numbers, an interval as two, and none per class."""
    recent = {f"recent_{name}": value for name, value in (metrics["recent"] or {}).items()}
    flat = {}
    for name, value in {**metrics, **recent}.items():
        if isinstance(value, int | float):
            flat[name] = value
        elif name.endswith("_ci95") and value is not None:
            flat[f"{name}_low"], flat[f"{name}_high"] = value
    return flat


def _answers(package: Package, dataset: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return probabilities, float32 (n, classes), and familiarity, (n,), of the rows; n may be 0."""
    starts = range(0, max(1, len(rows)), ROWS_AT_ONCE)
    found = [package.answers(dataset.images[rows[start : start + ROWS_AT_ONCE]]) for start in starts]
    familiarity = [more for _, more in found if more is not None]
    return np.concatenate([one for one, _ in found]), np.concatenate(familiarity) if familiarity else None


def _load(path: Path, dataset: Dataset) -> Package:
    try:
        package = Package.load(path)
    except ValueError as error:
        raise DataError(str(error)) from None
    form = Form.of(dataset.manifest)
    if package.classes != dataset.classes or package.form != form:
        raise DataError(
            f"{path} has {len(package.classes)} classes and images of shape {package.image_shape}, but the prepared "
            f"data has {len(dataset.classes)} classes and images of shape {dataset.image_shape}, or other class names "
            f"or resize settings; run `dvc repro train@{path.parent.name}`"
        )
    return package


def _not_whole(path: Path, why: str) -> DataError:
    return DataError(f"{path}: {why}; run `dvc repro --force train@{path.parent.name}`")
