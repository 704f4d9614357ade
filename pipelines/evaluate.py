"""Score every candidate's model.onnx on the test images, choose the winner, write metrics, pictures and a report."""

import csv
import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from darkroom.data.arrays.dataset import Dataset
from darkroom.errors import DataError, RegistryError
from darkroom.files.writing import write_text
from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import Section, load_candidates, load_section

if TYPE_CHECKING:
    import pandas as pd

    from darkroom.deployable.package import Package
    from darkroom.evaluation.candidates import Candidate, WorstError
    from darkroom.tracking.runs import Run

ROWS_AT_ONCE = 1024  # test images held in memory: 150 MB at 224x224 RGB
RUN_KEYS = {"run_id", "experiment", "tracking_uri", "git_commit", "git_dirty", "data_digest", "best_epoch"}
RUN_KEYS |= {"val_accuracy", "train_seconds"}


class EvaluateParams(Section):
    """The section `evaluate` of params.yaml."""

    calibration_bins: int = Field(ge=1)
    worst_images: int = Field(ge=0)
    latency_repeats: int = Field(ge=1)


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "models", "out", "predictions", "figures", "plots", "report")
    params = load_section("evaluate", EvaluateParams)
    named = load_candidates()
    dataset = Dataset.open(paths.prepared)
    rows = dataset.rows("test")
    if not len(rows):
        raise DataError(f"{paths.prepared}: there is no test image; raise preprocess.test_fraction, or add images")
    folders = _candidate_folders(paths.models, named)
    trained = {folder.name: _read_run(folder / "run.json") for folder in folders}

    from darkroom.evaluation import candidates as candidates_module
    from darkroom.evaluation import predictions, report

    with ExitStack() as stack:  # a store that does not answer must fail before anything is scored, not after
        records = {name: _reopen(stack, name, said) for name, said in trained.items()}
        candidates = [_score(folder, trained[folder.name], dataset, rows, params) for folder in folders]
        metrics = {candidate.name: dict(candidate.metrics) for candidate in candidates}
        winner = candidates_module.winner({name: float(said["val_accuracy"]) for name, said in trained.items()})
        index, labels = dataset.index().iloc[rows], dataset.labels[rows]
        ids = index["id"].tolist()
        predictions.write_predictions(candidates, labels, ids, dataset.classes, paths.predictions)
        worst = {
            candidate.name: _worst(candidate, dataset, index, n_errors=params.worst_images) for candidate in candidates
        }
        options: dict[str, Any] = {"calibration_bins": params.calibration_bins}
        drawn = {}
        for candidate in candidates:
            name = candidate.name
            report.write_plots(candidate, labels, paths.plots / name, classes=dataset.classes, **options)
            pictures = paths.figures / name
            drawn[name] = report.draw(
                candidate, labels, pictures, classes=dataset.classes, worst=worst[name], **options
            )
            records[name].log_metrics(_flat(metrics[name]))
            records[name].log_artifact(pictures, "pictures")
        page = report.render(
            candidates, labels, winner=winner, manifest=dataset.manifest, worst=worst[winner], drawn=drawn, **options
        )
        write_text(paths.report, page)
        records[winner].log_artifact(paths.report)
    test_ids_sha256 = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    summary = {"test_ids_sha256": test_ids_sha256, "winner": winner, "candidates": metrics}
    write_text(paths.out, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    accuracy, (low, high) = metrics[winner]["test_accuracy"], metrics[winner]["test_accuracy_ci95"]
    say(f"evaluate: {winner}: test accuracy {accuracy:.4f}, 95% interval {low:.4f} to {high:.4f}, {len(rows)} images")


def _candidate_folders(models: Path, named: list[str]) -> list[Path]:
    """Return the folders of the named candidates; what earlier settings left beside them in models is not scored."""
    folders = [models / name for name in named]
    if missing := [folder for folder in folders if not (folder / "model.onnx").is_file()]:
        raise DataError(f"{missing[0]}: there is no model.onnx; run `dvc repro train@{missing[0].name}` first")
    return folders


def _read_run(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        missing = sorted(RUN_KEYS - said.keys())
    except (OSError, ValueError, AttributeError) as error:
        raise _not_whole(path, f"it cannot be read ({error})") from None
    if missing:
        raise _not_whole(path, f"it lacks {', '.join(missing)}")
    return dict(said)


def _read_history(path: Path) -> dict[str, list[float]]:
    from darkroom.evaluation.report import CURVES

    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        history = {name: [float(line[name]) for line in lines] for name in ("epoch", *CURVES)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_whole(path, f"it cannot be read ({type(error).__name__}: {error})") from None
    if not lines:
        raise _not_whole(path, "it has no epoch")
    return history


def _not_whole(path: Path, why: str) -> DataError:
    return DataError(f"{path}: {why}; run `dvc repro --force train@{path.parent.name}`")


def _reopen(stack: ExitStack, name: str, trained: Mapping[str, Any]) -> "Run":
    """Return the training's run, opened to be added to."""
    from darkroom.tracking import runs

    runs.connect(trained["experiment"])
    try:
        return stack.enter_context(runs.reopen(trained["run_id"]))
    except RegistryError as error:
        raise RegistryError(
            f"the run of {name} cannot be opened: {error}; it was made in {trained['tracking_uri']}: set "
            f"MLFLOW_TRACKING_URI to that store, or run `dvc repro --force train@{name}`"
        ) from None


def _score(
    folder: Path, trained: Mapping[str, Any], dataset: Dataset, rows: np.ndarray, params: EvaluateParams
) -> "Candidate":
    from darkroom.evaluation.candidates import Candidate
    from darkroom.evaluation.metrics import classification

    path = folder / "model.onnx"
    package = _load(path, dataset)
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    probabilities = np.concatenate([package.probabilities(dataset.images[part]) for part in parts])
    metrics = classification.evaluate(
        probabilities,
        dataset.labels[rows],
        classes=dataset.classes,
        calibration_bins=params.calibration_bins,
    )
    latencies = package.latencies_ms(dataset.images[int(rows[0])], repeats=params.latency_repeats)
    metrics["latency_ms_p50"], metrics["latency_ms_p95"] = np.quantile(latencies, [0.5, 0.95]).tolist()
    metrics["model_bytes"] = path.stat().st_size
    history = _read_history(folder / "history.csv")
    return Candidate(folder.name, run=trained, history=history, metrics=metrics, probabilities=probabilities)


def _load(path: Path, dataset: Dataset) -> "Package":
    from darkroom.deployable.package import Package

    try:
        package = Package.load(path)
    except ValueError as error:
        raise DataError(str(error)) from None
    if package.classes != dataset.classes or package.image_shape != dataset.image_shape:
        raise DataError(
            f"{path}: it tells {len(package.classes)} classes apart in images of {package.image_shape}, but the "
            f"prepared data have {len(dataset.classes)} classes in images of {dataset.image_shape}, or other names of "
            f"classes; run `dvc repro train@{path.parent.name}`"
        )
    return package


def _worst(candidate: "Candidate", dataset: Dataset, index: "pd.DataFrame", *, n_errors: int) -> "list[WorstError]":
    """Return the worst errors with their pictures; index has the lines of the test images."""
    from darkroom.evaluation.candidates import WorstError
    from darkroom.evaluation.metrics import classification

    rows, sources = index["row"].to_numpy(), index["source"].tolist()
    labels, answers = dataset.labels[rows], candidate.probabilities
    return [
        WorstError(
            image=dataset.images[int(rows[position])],
            source=str(sources[position]),
            label=dataset.classes[labels[position]],
            predicted=dataset.classes[answers[position].argmax()],
            confidence=float(answers[position].max()),
        )
        for position in classification.worst_errors(answers, labels, n_errors=n_errors)
    ]


def _flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics as MLflow takes them: single numbers; the interval as two, and none per class."""
    flat = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    low, high = metrics["test_accuracy_ci95"]
    return {**flat, "test_accuracy_ci95_low": low, "test_accuracy_ci95_high": high}


if __name__ == "__main__":
    run(main)
