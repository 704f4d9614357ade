"""The only writer of MLflow runs.

Everything goes through an MlflowClient and a run id, never through MLflow's "active run". So MLFLOW_RUN_ID in the
environment cannot redirect a run, and MLflow's exit handler never marks a killed run as FINISHED.
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from darkroom.errors import RegistryError, Stopped
from darkroom.project.params import flatten
from darkroom.tracking.store import client, existing, store_errors, tracking_uri

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient

from darkroom.tracking.experiments import connect
from darkroom.tracking.pages import NOTE, run_page

SUBJECTS = ("Version", "Decision", "Test", "Validation", "Settings", "Commit")  # of a description, in this order
CURVE = "epoch/"  # prefix of metrics with a value per epoch; MLflow shows them as a group of charts
PARENT = "mlflow.parentRunId"  # MLflow's tag of a child run
KEY_LENGTH = 250  # MLflow's limit for the name of a param


def logged(params: Mapping[str, Any]) -> dict[str, str]:
    """Return nested params as those of an MLflow run: dotted names, and text.

    Characters that MLflow does not allow in a name, such as those of a class in class_weights, become their hexadecimal
    code points.
    """
    return {
        re.sub(r"[^\w. :-]", lambda found: f"_x{ord(found[0]):x}_", key)[:KEY_LENGTH]: value
        for key, value in flatten(params).items()
    }


@dataclass(frozen=True)
class Run:
    """One MLflow run to write to; metrics have explicit steps, so a resumed run continues."""

    id: str
    experiment: str
    experiment_id: str
    tracking_uri: str
    _client: Any

    def log_epoch(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Record the metrics of one epoch, counted from 1, in one transaction.

        They are points of the curves epoch/NAME, at the step `epoch`. MLflow's tables show the last point of a curve,
        which is not the kept epoch, so the metrics for comparing runs have other names.
        """
        self.log_metrics({f"{CURVE}{name}": value for name, value in logs.items()}, step=epoch)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, model_uri: str = "") -> None:
        """Record metrics at the step (0 if None).

        Args:
            model_uri: returned by log_package; the metrics are also recorded for that model, if this store has it.
        """
        from mlflow.entities import Metric

        now, model = int(time.time() * 1000), model_uri.removeprefix("models:/") or None
        with store_errors(self.tracking_uri):
            if model and not existing(lambda: self._client.get_logged_model(model)):
                model = None
            entries = [Metric(name, float(value), now, step or 0, model_id=model) for name, value in metrics.items()]
            self._client.log_batch(self.id, metrics=entries)

    def rename(self, name: str) -> None:
        """Give the run another name."""
        with store_errors(self.tracking_uri):
            self._client.update_run(self.id, name=name)

    def note(self, about: str, text: str) -> None:
        """Write one paragraph of the run's description, or replace the one about the same subject.

        MLflow folds a description after a few lines, so paragraphs are in the order of SUBJECTS, not of time.
        """
        with store_errors(self.tracking_uri):
            told = self._client.get_run(self.id).data.tags.get(NOTE, "").split("\n\n")
            start = f"**{about}:** "
            kept = [paragraph for paragraph in told if paragraph and not paragraph.startswith(start)]
            order = [f"**{subject}:** " for subject in SUBJECTS]
            ranks = {
                paragraph: next((rank for rank, first in enumerate(order) if paragraph.startswith(first)), -1)
                for paragraph in [*kept, start + text]
            }
            self._client.set_tag(self.id, NOTE, "\n\n".join(sorted(ranks, key=lambda paragraph: ranks[paragraph])))

    def page(self, artifact: str = "") -> str:
        """Return the address of the run, or of one of its artifacts, in MLflow's UI."""
        return run_page(self.experiment_id, self.id, artifact)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on the run, over existing ones."""
        from mlflow.entities import RunTag

        with store_errors(self.tracking_uri):
            self._client.log_batch(self.id, tags=[RunTag(key, str(value)[:8000]) for key, value in tags.items()])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record nested params twice: as flat params with dotted keys, and as the artifact params.yaml.

        Raises:
            RegistryError: a resumed run has another value of one of them.
        """
        from mlflow.entities import Param

        flat = logged(params)
        with store_errors(self.tracking_uri):
            known = self._client.get_run(self.id).data.params
            for key in flat.keys() & known.keys():
                if flat[key] != known[key]:
                    raise RegistryError(
                        f"run {self.id} cannot be resumed: its param {key} was {known[key]!r} and is now {flat[key]!r}"
                    )
            entries = [Param(key, value) for key, value in flat.items() if key not in known]
            for start in range(0, len(entries), 100):  # MLflow's limit for one batch
                self._client.log_batch(self.id, params=entries[start : start + 100])
            text = StringIO()
            YAML(typ="safe", pure=True).dump(json.loads(json.dumps(params, default=str)), text)
            self._client.log_text(self.id, text.getvalue(), "params.yaml")

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file or directory into the run's artifacts, under `folder`."""
        with store_errors(self.tracking_uri):
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(self.id, str(path), folder or None)

    def log_dataset(self, name: str, digest: str, source: str, counts: Mapping[str, Any]) -> None:
        """Record the dataset of the run; MLflow keeps 36 characters of the digest, so a tag has all of it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:36],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(counts),
        )
        with store_errors(self.tracking_uri):
            self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        self.set_tags({"data.digest": digest})

    def log_package(
        self, onnx_path: Path, *, seen: Path | None = None, input_example: "np.ndarray | None" = None, step: int = 0
    ) -> str:
        """Store model.onnx as the deployable MLflow model of this run and return its URI, `models:/m-...`.

        Args:
            onnx_path: the file that package.py loads; it is stored as model.onnx.
            seen: the ids of the images that the model was trained and tuned on, stored beside it.
            input_example: (n, height, width, channels), uint8; the first image is stored as a base64 PNG, as an example
                for `predict` and `mlflow models serve`.
            step: the epoch whose metrics MLflow shows beside the model.
        """
        from darkroom.deployable.log_model import log_package

        with store_errors(self.tracking_uri):
            return log_package(self._client, self.id, onnx_path, seen=seen, input_example=input_example, step=step)


@contextmanager
def run(
    *,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    resume: str | None = None,
    parent: str | None = None,
) -> Iterator[Run]:
    """Open a run; close it as FINISHED, FAILED (an exception: its text is the tag `error`) or KILLED (SIGTERM, Ctrl-C,
    or a training that was Stopped).

    Args:
        resume: the id of a run of a killed process, which is continued. If the store does not have it, for example
            after it was replaced, a new run begins.
        parent: the id of the parent run.
    """
    experiment_id = connect(experiment)
    opened = client()
    tags = {**tags, **({PARENT: parent} if parent else {}), **_process_tags()}
    with store_errors(tracking_uri()):
        run_id = resume if resume and _exists(opened, resume) else None
        if run_id:
            opened.update_run(run_id, status="RUNNING")
            if "error" in opened.get_run(run_id).data.tags:
                opened.delete_tag(run_id, "error")
        else:
            source = {"mlflow.source.name": os.environ.get("DVC_STAGE", name), "mlflow.source.type": "LOCAL"}
            run_id = opened.create_run(experiment_id, run_name=name, tags={**source, **tags}).info.run_id
    current = Run(run_id, experiment, experiment_id, tracking_uri(), opened)
    with _closing(current):
        current.set_tags(tags)
        current.log_params(params)
        yield current


def end_open(experiment: str, *, tags: Mapping[str, str]) -> int:
    """Close runs with these tags that a killed process left RUNNING as KILLED, and return their number."""
    experiment_id = connect(experiment)
    opened = client()
    sought = ["attributes.status = 'RUNNING'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())]
    with store_errors(tracking_uri()):
        found = opened.search_runs([experiment_id], " and ".join(sought), max_results=1000)
        for run_left in found:
            opened.set_terminated(run_left.info.run_id, "KILLED")
    return len(found)


def end_left(run_id: str) -> None:
    """Close a run that a killed process left RUNNING as KILLED; ignore ended and unknown runs."""
    opened = client()
    with store_errors(tracking_uri()):
        left = existing(lambda: opened.get_run(run_id))
        if left and left.info.status == "RUNNING":
            opened.set_terminated(run_id, "KILLED")


@contextmanager
def reopen(run_id: str) -> Iterator[Run]:
    """Open a finished run to add to it; its status and end time stay.

    Raises:
        RegistryError: the store has no such run, or it was deleted in MLflow's UI.
    """
    opened = client()
    with store_errors(tracking_uri()):
        found = opened.get_run(run_id)
        experiment_id = found.info.experiment_id
        experiment = opened.get_experiment(experiment_id).name
    if found.info.lifecycle_stage != "active":
        raise RegistryError(f"run {run_id} was deleted; restore it with `mlflow runs restore --run-id {run_id}`")
    yield Run(run_id, experiment, experiment_id, tracking_uri(), opened)


@contextmanager
def reopen_if_known(run_id: str | None) -> Iterator[Run | None]:
    """Open a finished run as `reopen` does; yield None if the store does not have it."""
    with reopen(run_id) if run_id and tags_of(run_id) is not None else nullcontext() as run:
        yield run


def tags_of(run_id: str) -> dict[str, str] | None:
    """Return the tags of a run, None if it does not exist or was deleted in MLflow's UI."""
    opened = client()
    with store_errors(tracking_uri()):
        found = existing(lambda: opened.get_run(run_id))
    return dict(found.data.tags) if found and found.info.lifecycle_stage == "active" else None


def process_namespace() -> str:
    """Return the namespace of process ids: containers may share a host's name but not its processes."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not on Linux
        return ""


def _process_tags() -> dict[str, str]:
    """Return tags that identify the writing process later; its number alone may be reused."""
    import psutil

    return {
        "process.host": socket.gethostname(),
        "process.namespace": process_namespace(),
        "process.pid": str(os.getpid()),
        "process.started": f"{psutil.Process().create_time():.2f}",
    }


@contextmanager
def _closing(current: Run) -> Iterator[None]:
    status = "FINISHED"
    try:
        yield
    except Stopped as stop:
        status = "KILLED"
        with _unless_failing(status):
            current.set_tags({"stopped": str(stop)})
        raise
    except (SystemExit, KeyboardInterrupt) as stop:
        status = "FINISHED" if isinstance(stop, SystemExit) and not stop.code else "KILLED"
        raise
    except BaseException as error:
        status = "FAILED"
        _best_effort(current, error)
        raise
    finally:
        with _unless_failing(status):
            current._client.set_terminated(current.id, status)


def _best_effort(current: Run, error: BaseException) -> None:
    with _unless_failing("FAILED"):
        current.set_tags({"error": f"{type(error).__name__}: {error}"})


@contextmanager
def _unless_failing(status: str) -> Iterator[None]:
    """Suppress errors of the store after the run failed, so that they do not hide the first error."""
    try:
        yield
    except Exception:
        if status == "FINISHED":
            raise


def _exists(opened: "MlflowClient", run_id: str) -> bool:
    found = existing(lambda: opened.get_run(run_id))
    return found is not None and found.info.lifecycle_stage == "active"
