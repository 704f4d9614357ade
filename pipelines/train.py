"""Train one candidate on the train split, keep its best epoch by validation accuracy, and record the run in MLflow.

The candidate is named by the output folder: models/cnn is trained from the section train.cnn.
"""

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darkroom.checkpoints import Checkpoint
from darkroom.console import TrainingProgress, native_stderr_silenced, run, say, stage_paths
from darkroom.dataset import Dataset
from darkroom.errors import ParamsError, TrainingError
from darkroom.feeding import EpochBatches, PlainBatches, Selection
from darkroom.params import digest, load_section
from darkroom.repository import repository_root
from darkroom.train_params import TrainParams

if TYPE_CHECKING:
    import keras

    from darkroom.checkpoints import Progress
    from darkroom.tracking import Run

PARITY_IMAGES = 256
PARITY_TOLERANCE = 1e-4  # of a probability; float32 kernels that sum in another order stay below 1e-5


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "augmented", "out")
    candidate = paths.out.name
    params = load_section(f"train.{candidate}", TrainParams)
    prepared, augmented = Dataset.open(paths.prepared), Dataset.open(paths.augmented)
    if params.variation.cutout >= min(prepared.image_shape[:2]):
        raise ParamsError(
            f"params.yaml: train.{candidate}.variation.cutout is {params.variation.cutout}: it would blank "
            f"whole pictures of {prepared.image_shape[:2]} pixels; lower it"
        )

    from darkroom import provenance, store, tracking

    experiment = str(prepared.manifest["dataset"])
    data_digest = digest([prepared.manifest["digest"], augmented.manifest["digest"]])
    params_digest = digest(params.model_dump())
    tags = provenance.lineage_tags(data_digest=data_digest, params_digest=params_digest, candidate=candidate)
    tracking.connect(experiment)  # a server that does not answer must fail before minutes are spent

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_stderr_silenced():
        from darkroom import models, training
    models.check_backend()

    versions = provenance.versions()
    code = [provenance.code_digest(), Path(__file__).read_text()]
    key = digest([data_digest, params_digest, store.tracking_uri(), code, versions])[:16]
    checkpoint = Checkpoint(repository_root() / ".darkroom" / "checkpoints" / key)
    policy = training.policy(params.precision)
    described = {**tags, "precision": policy, **{f"version.{name}": version for name, version in versions.items()}}
    with (
        store.store_lock(f"train-{key}", timeout=0),  # else an equal training would write the same checkpoints and run
        tracking.run(
            experiment=experiment,
            name=f"train-{candidate}",
            params=params.model_dump(),
            tags=described,
            resume=checkpoint.run_id,
        ) as record,
    ):
        checkpoint.run_id = record.id
        record.log_dataset(experiment, data_digest, source=str(paths.prepared), counts=prepared.manifest["counts"])
        network, progress = _fit(params, prepared, augmented, policy=policy, checkpoint=checkpoint, record=record)
        _write_model(network, prepared, paths.out, record=record)
        _write_history(progress.history, paths.out / "history.csv")
        model_uri = record.log_package(
            paths.out / "model.onnx", input_example=prepared.images[:1], step=progress.best_epoch
        )
        summary = {
            "run_id": record.id,
            "experiment": experiment,
            "tracking_uri": store.redact(store.tracking_uri()),
            "model_uri": model_uri,
            "candidate": candidate,
            "git_commit": tags["git.commit"],
            "git_dirty": tags["git.dirty"] == "true",
            "data_digest": data_digest,
            "params_digest": params_digest,
            "best_epoch": progress.best_epoch,
            "val_accuracy": progress.best_val_accuracy,
            "train_seconds": round(progress.train_seconds, 3),
        }
        (paths.out / "run.json").write_text(json.dumps(summary, indent=2) + "\n")
        record.log_metrics({"best_epoch": progress.best_epoch, "train_seconds": progress.train_seconds})
        record.log_artifact(paths.out / "history.csv")
        checkpoint.delete()
    say(f"train: {candidate}: val accuracy {progress.best_val_accuracy:.4f} in epoch {progress.best_epoch + 1}")


def _fit(
    params: TrainParams, prepared: Dataset, augmented: Dataset, *, policy: str, checkpoint: Checkpoint, record: "Run"
) -> "tuple[keras.Model, Progress]":
    """Return the network with the weights of its best epoch, as float32, and what the epochs brought."""
    from darkroom import models, training

    assert isinstance(params.batch_size, int)
    rows, copies, val_rows = prepared.rows("train"), augmented.rows("train"), prepared.rows("val")
    images = Selection([(prepared.images, rows), (augmented.images, copies)])
    labels = np.concatenate([prepared.labels[rows], augmented.labels[copies]])
    n_classes = len(prepared.classes)

    def batches(epoch: int) -> EpochBatches:
        return EpochBatches(
            images,
            labels,
            n_classes=n_classes,
            batch_size=params.batch_size,
            seed=params.seed,
            epoch=epoch,
            shift=params.variation.shift,
            flip=params.variation.flip != "none",
            cutout=params.variation.cutout,
        )

    def network(policy: str) -> "keras.Model":
        return models.build(
            params.architecture.name,
            image_shape=prepared.image_shape,
            n_classes=n_classes,
            arguments=params.architecture.model_dump(exclude={"name"}),
            seed=params.seed,
            policy=policy,
        )

    total_steps = params.epochs * len(batches(0))
    schedule = training.Schedule(
        params.schedule.name, peak=params.learning_rate, total_steps=total_steps, warmup=params.schedule.warmup
    )
    val_images = Selection([(prepared.images, val_rows)])
    validation = PlainBatches(
        val_images,
        prepared.labels[val_rows],
        n_classes=n_classes,
        batch_size=2 * params.batch_size,  # no gradients are kept
    )
    lines = TrainingProgress(params.epochs)

    def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
        record.log_epoch(epoch, logs)
        lines.on_epoch_end(epoch, logs)

    trained = network(policy)
    progress = training.fit(
        trained,
        train=batches,
        validation=validation,
        epochs=params.epochs,
        optimizer=training.make_optimizer(
            params.optimizer.name, learning_rate=schedule, weight_decay=params.optimizer.weight_decay
        ),
        label_smoothing=params.label_smoothing,
        draws={
            "shift": params.variation.shift,
            "flip": params.variation.flip != "none",
            "cutout": params.variation.cutout,
        },
        checkpoint=checkpoint,
        on_step=lines.on_step,
        on_epoch_end=on_epoch_end,
    )
    exported = network("float32")  # ONNX files are written in float32, whatever training computed in
    exported.set_weights(trained.get_weights())
    return exported, progress


def _write_model(network: "keras.Model", prepared: Dataset, out: Path, *, record: "Run") -> None:
    """Write model.keras and model.onnx; refuse an ONNX file that does not say what the Keras model says."""
    from darkroom import models

    out.mkdir(parents=True, exist_ok=True)
    onnx_path = out / "model.onnx"
    model = models.deployable(network)
    metadata = {key: prepared.manifest[key] for key in ("dataset", "classes", "image_shape", "color")}
    models.save(model, keras_path=out / "model.keras", onnx_path=onnx_path, metadata=metadata)
    images = prepared.images[prepared.rows("val")[:PARITY_IMAGES]]
    difference = models.onnx_difference(model, onnx_path, images)
    record.log_metrics({"onnx_max_abs_difference": difference})
    if not difference <= PARITY_TOLERANCE:
        raise TrainingError(
            f"{onnx_path}: its probabilities differ from the Keras model's by up to {difference:.2g} on {len(images)} "
            f"images, expected at most {PARITY_TOLERANCE:.0e}; the exported graph must not be deployed"
        )


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


if __name__ == "__main__":
    run(main)
