"""Train one candidate on the train split, keep its best epoch by validation accuracy, and record the run in MLflow.

The candidate is named by the output folder: models/cnn is trained from the section train.cnn, and from best.yaml, whose
values `tune` found and put in place of those of the section.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.errors import ParamsError
from darkroom.files.writing import write_text
from darkroom.project.console import native_stderr_silenced, run, say, stage_paths
from darkroom.project.params import ComputeParams, digest, explain, in_section, load_section
from darkroom.project.repository import repository_root
from darkroom.training import overrides, recipe
from darkroom.training.candidate import Reports, calibrated, train_candidate
from darkroom.training.checkpoints import Checkpoint
from darkroom.training.class_weights import choose_class_weights
from darkroom.training.params import TrainParams
from darkroom.training.progress import TrainingProgress


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "augmented", "features", "best", "out")
    candidate = paths.out.name
    params = load_section(f"train.{candidate}", TrainParams).model_dump()
    params, tuned = _with_tuned(params, paths.best)
    if tuned:
        said = ", ".join(f"{key} {new} (not {old})" for key, (old, new) in tuned.items())
        say(f"train: {candidate}: from tuning: {said}")
    device = load_section("compute", ComputeParams).device
    prepared, augmented = Dataset.open(paths.prepared), Dataset.open(paths.augmented)
    features = Features.open(paths.features)
    origin = {"prepared_digest": prepared.manifest["digest"], "augmented_digest": augmented.manifest["digest"]}
    features.check_origin(**origin)
    if params["class_weights"] == "auto":
        chosen = choose_class_weights(prepared.manifest["counts"]["train"])
        params["class_weights"] = chosen.value
        say(f"train: {candidate}: class_weights {chosen.value} ({chosen.reason})")
    data = recipe.pictures(prepared, augmented)
    with in_section(f"train.{candidate}"):
        recipe.check(params, data, image_shape=prepared.image_shape, features=features)

    from darkroom.project import locks
    from darkroom.project.text import redact
    from darkroom.tracking import provenance, runs, store

    experiment = str(prepared.manifest["dataset"])
    data_digest, params_digest = digest(list(origin.values())), digest(params)
    tags = provenance.lineage_tags(data_digest=data_digest, params_digest=params_digest, candidate=candidate)
    runs.connect(experiment)  # a server that does not answer must fail before minutes are spent

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_stderr_silenced():
        from darkroom.networks import export
        from darkroom.networks.runtime import device as device_module
        from darkroom.training.fit import fit  # noqa: F401 - all that train, for the code's digest

        export.check_backend()
        described = device_module.prepare(device)
        with in_section(f"train.{candidate}"):
            policy = device_module.policy(params["precision"])
    versions = provenance.versions()
    code = [provenance.code_digest(), Path(__file__).read_text()]
    inputs = [data_digest, features.digest if recipe.transfer_mode(params) else None, params_digest]
    key = digest([*inputs, store.tracking_uri(), code, versions])[:16]
    checkpoint = Checkpoint(repository_root() / ".darkroom" / "checkpoints" / key)
    tags |= {"tuned": json.dumps({key: new for key, (_, new) in tuned.items()})}
    tags |= {"precision": policy, "device": described, **{f"version.{name}": text for name, text in versions.items()}}
    with (
        locks.store_lock(f"train-{key}", timeout=0),  # else an equal training would write the same checkpoints and run
        runs.run(
            experiment=experiment, name=f"train-{candidate}", params=params, tags=tags, resume=checkpoint.run_id
        ) as record,
    ):
        checkpoint.run_id = record.id
        record.log_dataset(experiment, data_digest, source=str(paths.prepared), counts=prepared.manifest["counts"])
        lines = TrainingProgress(recipe.n_epochs(params))

        def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
            record.log_epoch(epoch, logs)
            lines.on_epoch_end(epoch, logs)

        with in_section(f"train.{candidate}"):
            trained = train_candidate(
                params,
                data=data,
                image_shape=prepared.image_shape,
                features=features,
                extractor_of=recipe.extractor_of(features, image_shape=prepared.image_shape),
                policy=policy,
                checkpoint=checkpoint,
                reports=Reports(on_step=lines.on_step, on_epoch_end=on_epoch_end, say=say),
            )
        progress, model, changes = trained.progress, trained.model, dict[str, float]()
        if params["calibration"] == "temperature" and not params["debug"]["overfit_one_batch"]:
            model, changes = calibrated(trained, data, views=params["test_time_views"])
            say(f"train: {candidate}: temperature {changes['temperature']:.3f}, fitted on the validation images")
        metadata = {name: prepared.manifest[name] for name in ("dataset", "classes", "image_shape", "color")}
        shown = prepared.images[prepared.rows("val")[: export.PARITY_IMAGES]]
        difference = export.export(model, paths.out, metadata=metadata, images=shown)
        _write_history(progress.history, paths.out / "history.csv")
        model_uri = record.log_package(paths.out / "model.onnx", input_example=shown[:1], step=progress.best_epoch)
        summary = {
            "run_id": record.id,
            "experiment": experiment,
            "tracking_uri": redact(store.tracking_uri()),
            "model_uri": model_uri,
            "candidate": candidate,
            "git_commit": tags["git.commit"],
            "git_dirty": tags["git.dirty"] == "true",
            "data_digest": data_digest,
            "params_digest": params_digest,
            "best_epoch": progress.best_epoch,
            "val_accuracy": trained.val_accuracy,
            "train_seconds": round(progress.train_seconds, 3),
        }
        write_text(paths.out / "run.json", json.dumps(summary, indent=2) + "\n")
        measured = {"best_epoch": progress.best_epoch, "train_seconds": progress.train_seconds}
        record.log_metrics(
            {**measured, **changes, "batch_size": trained.batch_size, "onnx_max_abs_difference": difference}
        )
        record.log_artifact(paths.out / "history.csv")
        checkpoint.delete()
    say(f"train: {candidate}: val accuracy {trained.val_accuracy:.4f} in epoch {progress.best_epoch + 1}")


def _with_tuned(params: dict[str, Any], best: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """Return the recipe with the values that `tune` found in place of its own, and both of those that differ.

    Raises:
        ParamsError: best.yaml names a key or a value that a recipe cannot have.
        DataError: it cannot be read.
    """
    found = overrides.read(best)
    try:
        applied = TrainParams.model_validate(overrides.apply(params, found)).model_dump()
    except ParamsError as error:
        raise ParamsError(f"{best}: {error}") from None
    except ValidationError as error:
        raise ParamsError(f"{best}: {explain('train', TrainParams, error)}; run `dvc repro tune`") from None
    return applied, overrides.changed(params, found)


def _write_history(history: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


if __name__ == "__main__":
    run(main)
