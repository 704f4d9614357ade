"""The training of the stage train: resumable, recorded as an MLflow run, with the files of the model.

Only this module of the package uses MLflow, so results do not depend on how they are recorded.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from darkroom.data.arrays.seen import SEEN_FILE, seen_ids, write_seen_ids
from darkroom.errors import LockedError
from darkroom.files.writing import write_csv, write_text
from darkroom.project.console import loading_keras, say
from darkroom.project.locks import store_lock
from darkroom.project.params import digest, in_section
from darkroom.project.repository import repository_root
from darkroom.project.text import redact
from darkroom.tracking import experiments, provenance, runs
from darkroom.tracking.differences import name_run
from darkroom.tracking.record import Run
from darkroom.tracking.store import tracking_uri
from darkroom.training.calibration import HeldOut, calibrated, validated
from darkroom.training.candidate import Reports, Trained, train_candidate
from darkroom.training.checkpoints import Checkpoint
from darkroom.training.familiarity import learn
from darkroom.training.opened import Opened
from darkroom.training.progress import TrainingProgress
from darkroom.training.promises import Promise, abstention, prediction_sets, unknown
from darkroom.training.recipe import Recipe, extractor_of, n_epochs, policy_of, set_aside_from, transfer_mode

if TYPE_CHECKING:
    import keras

# The sources of a training, as in dvc.yaml; after a change of one it is not resumed.
TRAINED = (
    *("errors.py", "project", "files", "data/arrays", "data/fetching", "deployable", "evaluation/metrics"),
    *("networks", "tracking", "training"),
)


def train_tracked(
    recipe: Recipe,
    *,
    candidate: str,
    opened: Opened,
    device: str,
    tuned: Mapping[str, Any],
    stage: Path,
    out: Path,
) -> Trained:
    """Train a candidate and write its model, seen_ids.npy, history.csv, metrics.json and run.json into out.

    An identical training that was killed is resumed, in the same run. If a killed one differs, for example because its
    params were edited, its run is closed and its checkpoint removed.

    Args:
        recipe: passed recipe.check().
        candidate: a section of train.
        device: compute.device.
        tuned: values from `tune` that replace those of train, by dotted key.
        stage: the source file of the calling stage; if it has changed, no training is resumed.

    Raises:
        LockedError: an identical training is running.
        ParamsError: the recipe does not fit the device or the backbone.
        RegistryError: MLflow's store does not answer.
        TrainingError: the device is missing, the loss is not finite, or the memory is exhausted.
    """
    experiment = str(opened.prepared.manifest["dataset"])
    data_digest, params_digest = digest(list(opened.digests.values())), digest(recipe)
    lineage = provenance.lineage_tags(data_digest=data_digest, params_digest=params_digest, candidate=candidate)
    experiments.connect(experiment)  # fails before the training if the server does not answer
    described, dtype_policy = _prepared_keras(recipe, opened, candidate=candidate, device=device)
    versions = provenance.versions()
    code = [provenance.source_digest(TRAINED), stage.read_text()]
    features = opened.features.digest if opened.features and transfer_mode(recipe) else None
    key = digest([data_digest, features, params_digest, tracking_uri(), code, versions])[:16]
    checkpoints = repository_root() / ".darkroom" / "checkpoints"
    checkpoint = Checkpoint(checkpoints / f"{candidate}-{key}")
    tags = lineage | {"tuned": json.dumps(tuned), "precision": dtype_policy, "device": described}
    tags |= {f"version.{name}": text for name, text in versions.items()}
    _end_others(checkpoints, candidate, key=key)
    name, differs = name_run(f"train-{candidate}", experiment=experiment, params=recipe, tags=lineage, tuned=tuned)
    with (
        store_lock(f"train-{key}", timeout=0),  # an identical training would write the same checkpoints and run
        runs.run(experiment=experiment, name=name, params=recipe, tags=tags, resume=checkpoint.run_id) as record,
    ):
        checkpoint.run_id = record.id
        data = opened.prepared
        record.log_dataset(experiment, data_digest, source=str(data.directory), counts=data.manifest["counts"])
        with in_section(f"train.{candidate}"):
            trained = _train(recipe, opened, dtype_policy=dtype_policy, checkpoint=checkpoint, record=record)
        made = _calibrated(recipe, trained, opened, candidate=candidate)
        said = {
            "candidate": candidate,
            "git_commit": lineage["git.commit"],
            "git_dirty": lineage["git.dirty"] == "true",
            "data_digest": data_digest,
            "params_digest": params_digest,
            "params": recipe,
            "held_out_accuracy": made.answers.accuracy,
            "held_out_images": len(made.answers.labels),
        }
        difference = _write(made, trained, opened, record=record, said=said, out=out)
        record.log_metrics(
            {
                "best_epoch": trained.progress.best_epoch,
                "train_seconds": trained.progress.train_seconds,
                "batch_size": trained.batch_size,
                "held_out_accuracy": made.answers.accuracy,
                "onnx_max_abs_difference": difference,
                **made.numbers,
            }
        )
        _describe(record, trained, recipe, lineage, differs=differs)
        checkpoint.delete()
    return trained


def _end_others(checkpoints: Path, candidate: str, *, key: str) -> None:
    """Close the runs of other killed trainings of a candidate, and delete their checkpoints."""
    for folder in checkpoints.glob(f"{candidate}-{'[0-9a-f]' * len(key)}"):
        other = folder.name[-len(key) :]
        if other == key:
            continue
        with suppress(LockedError), store_lock(f"train-{other}", timeout=0):  # it is running, as an experiment
            left = Checkpoint(folder)
            if left.run_id:
                runs.end_left(left.run_id)
            left.delete()


def _prepared_keras(recipe: Recipe, opened: Opened, *, candidate: str, device: str) -> tuple[str, str]:
    """Load Keras and set up the device; return the device in words, and the dtype policy to train in."""
    with loading_keras():
        from darkroom.networks.export import check_backend
        from darkroom.networks.runtime.device import prepare

        check_backend()
        described = prepare(device)
        with in_section(f"train.{candidate}"):
            return described, policy_of(recipe, opened.features)


def _train(recipe: Recipe, opened: Opened, *, dtype_policy: str, checkpoint: Checkpoint, record: Run) -> Trained:
    """Train, with a line on stderr and a point of every curve in MLflow for each epoch."""
    lines = TrainingProgress(n_epochs(recipe))

    def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
        record.log_epoch(epoch, logs)
        lines.on_epoch_end(epoch, logs)

    return train_candidate(
        recipe,
        data=opened.data,
        image_shape=opened.image_shape,
        features=opened.features,
        extractor_of=extractor_of(opened.features, image_shape=opened.image_shape),
        policy=dtype_policy,
        checkpoint=checkpoint,
        reports=Reports(on_step=lines.on_step, on_epoch_end=on_epoch_end, say=say),
    )


class _Calibrated(NamedTuple):
    """The model to deploy, the answers for choosing the winner, its metadata, and metrics for the run."""

    model: "keras.Model"
    strangeness: "keras.Model | None"
    answers: HeldOut
    metadata: dict[str, Any]
    numbers: dict[str, float]


def _calibrated(recipe: Recipe, trained: Trained, opened: Opened, *, candidate: str) -> _Calibrated:
    options: Any = {"views": recipe["test_time_views"], "batch_size": trained.batch_size}
    answers = trained.held_out or validated(trained.model, opened.data, **options)
    aside = None if opened.calibration is None else validated(trained.model, opened.calibration, **options)
    by_folds = aside is None and trained.held_out is not None
    guide, calibration = answers, aside
    if aside is None and set_aside_from(recipe) is not None:
        guide, calibration = answers.halves(seed=recipe["seed"]) if by_folds else (answers, answers.none)
    model, numbers, metadata = trained.model, dict[str, float](), dict[str, Any]()
    if recipe["calibration"] == "temperature" and not recipe["debug"]["overfit_one_batch"]:
        model, numbers = calibrated(model, guide)
        temperature = numbers["temperature"]
        fitted = f"fitted on {len(guide.labels)} images that were held out"
        say(f"train: {candidate}: temperature {temperature:.3f}, {fitted}")
        guide, calibration = guide.at_temperature(temperature), calibration and calibration.at_temperature(temperature)
    if calibration is not None and recipe["sets"] is not None:
        promise = prediction_sets(recipe, calibration=calibration, by_folds=by_folds)
        metadata |= _said(promise, candidate=candidate)
    familiar = None
    if recipe["unknown_below"] is not None and not recipe["debug"]["overfit_one_batch"]:
        familiar = learn(recipe, trained, opened)
        promise = unknown(recipe["unknown_below"], scale=familiar.scale, n_images=familiar.n_images)
        metadata |= _said(promise, candidate=candidate)
        if (
            opened.calibration is not None and calibration is not None
        ):  # unknown images have no answer that may be wrong
            is_known = familiar.of(opened.calibration.val_images) >= recipe["unknown_below"]
            calibration = HeldOut(calibration.probabilities[is_known], calibration.labels[is_known])
    if calibration is not None and recipe["abstain"] is not None:
        promise = abstention(recipe, guide=guide, calibration=calibration, by_folds=by_folds)
        metadata |= _said(promise, candidate=candidate)
        numbers["abstain_below"] = metadata["abstain_below"]
    return _Calibrated(model, familiar and familiar.model, answers, metadata, numbers)


def _said(promise: Promise, *, candidate: str) -> dict[str, Any]:
    say(f"train: {candidate}: {promise.sentence}")
    return promise.metadata


def _describe(record: Run, trained: Trained, recipe: Recipe, lineage: Mapping[str, str], *, differs: str) -> None:
    """Write the result, and the differences from the last run, into the run's description."""
    epochs = f"epoch {trained.progress.best_epoch} of {n_epochs(recipe)}"
    record.note("Validation", f"accuracy {trained.val_accuracy:.2%}, kept from {epochs}")
    record.note("Settings", differs)
    changed = " with uncommitted changes" if lineage["git.dirty"] == "true" else ""
    record.note("Commit", f"`{lineage['git.commit'][:12]}`{changed}, data `{lineage['data.digest'][:12]}`")


def _write(
    made: _Calibrated,
    trained: Trained,
    opened: Opened,
    *,
    record: Run,
    said: Mapping[str, Any],
    out: Path,
) -> float:
    """Write the files of the training, log the model in the run; return the difference of its ONNX file."""
    from darkroom.networks.export import PARITY_IMAGES, export

    progress, images = trained.progress, opened.data.val_images
    shown = images[np.arange(min(PARITY_IMAGES, len(images)))]
    metadata = opened.metadata | made.metadata
    difference = export(made.model, out, metadata=metadata, images=shown, strangeness=made.strangeness)
    columns = list(progress.history[0])
    write_seen_ids(out / SEEN_FILE, seen_ids(opened.prepared))
    write_csv(out / "history.csv", columns, [[told[name] for name in columns] for told in progress.history])
    record.log_artifact(out / "history.csv")
    best = progress.best_epoch
    kept = progress.history[best - 1]
    of_best = {name: kept[name] for name in ("train_loss", "train_accuracy")}
    record.log_metrics({**of_best, "val_accuracy": trained.val_accuracy, "val_loss": progress.best_val_loss}, step=best)
    # One number, under the candidate's name, so that the columns of `dvc exp show` fit into a terminal.
    metrics = {said["candidate"]: {"val_accuracy": trained.val_accuracy}}
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    summary = {
        "run_id": record.id,
        "experiment": record.experiment,
        "tracking_uri": redact(tracking_uri()),
        "model_uri": record.log_package(out / "model.onnx", seen=out / SEEN_FILE, input_example=shown[:1], step=best),
        **said,
        "best_epoch": best,
        "val_accuracy": trained.val_accuracy,
        "val_loss": progress.best_val_loss,
        "train_seconds": round(progress.train_seconds, 3),
    }
    write_text(out / "run.json", json.dumps(summary, indent=2) + "\n")
    return difference
