"""Runs and models that this store does not have, because DVC restored the model from its cache or from a remote."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darkroom.errors import RegistryError
from darkroom.project.text import redact
from darkroom.tracking import runs
from darkroom.tracking.artifacts import is_gone
from darkroom.tracking.experiments import connect
from darkroom.tracking.record import Run
from darkroom.tracking.store import client, existing, store_errors, tracking_uri

RESTORED = "restored.run_id"  # tag of a run that replaces one of another store, with its id there


@contextmanager
def reopen_training(candidate: str, trained: Mapping[str, Any]) -> Iterator[Run]:
    """Open the run of a candidate's training to add to it; if this store does not have it, its replacement.

    Args:
        trained: run.json of the training: its run_id and experiment.

    Raises:
        RegistryError: the store does not answer, or the run was deleted.
    """
    connect(trained["experiment"])
    opened, run_id = client(), trained["run_id"]
    with store_errors(tracking_uri()):
        found = existing(lambda: opened.get_run(run_id))
    if found and found.info.lifecycle_stage != "active":
        raise RegistryError(
            f"the run of {candidate}, {run_id}, was deleted in the MLflow store {redact(tracking_uri())}; restore it "
            f"with `mlflow runs restore --run-id {run_id}`, or run `dvc repro --force train@{candidate}`"
        )
    with runs.reopen(run_id if found else _replacement(run_id, experiment=trained["experiment"])) as record:
        yield record


def find_or_log_model(
    model_uri: str, *, run_id: str, experiment: str, onnx_path: Path, seen: Path, tags: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Return (URI, run tags) of a logged model; if this store does not have it, log it again.

    Args:
        model_uri: returned by Run.log_package, in the store of the training.
        onnx_path, seen: the files of the model.
        tags: of the run that replaces the training's, if necessary.
    """
    opened = client()
    with store_errors(tracking_uri()):
        logged = existing(lambda: opened.get_logged_model(model_uri.removeprefix("models:/")))
        if logged and str(logged.status) == "READY" and not is_gone(logged.artifact_location):
            trained = existing(lambda: opened.get_run(logged.source_run_id or run_id))
            return model_uri, dict(trained.data.tags) if trained else {}
    return log_model(run_id, experiment=experiment, onnx_path=onnx_path, seen=seen, tags=tags)


def log_model(
    run_id: str, *, experiment: str, onnx_path: Path, seen: Path, tags: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Log a model in the run that replaces that of its training, and return its (URI, run tags)."""
    with runs.reopen(_replacement(run_id, experiment=experiment)) as current:
        current.set_tags(tags)
        return current.log_package(onnx_path, seen=seen), {**tags, RESTORED: run_id}


def _replacement(run_id: str, *, experiment: str) -> str:
    """Return the id of the run that replaces one missing in this store; it is created on first use."""
    experiment_id, opened = connect(experiment), client()
    with store_errors(tracking_uri()):
        known = opened.search_runs([experiment_id], f"tags.`{RESTORED}` = '{run_id}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    with runs.run(experiment=experiment, name="restored", params={}, tags={RESTORED: run_id}) as current:
        return current.id
