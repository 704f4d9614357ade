"""Open, reopen and close MLflow runs; record.py writes to them, and nothing else does.

Everything goes through an MlflowClient and a run id, never through MLflow's "active run". So MLFLOW_RUN_ID in the
environment cannot redirect a run, and MLflow's exit handler never marks a killed run as FINISHED.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.errors import RegistryError, Stopped
from darkroom.tracking.experiments import connect
from darkroom.tracking.record import Run
from darkroom.tracking.store import client, existing, store_errors, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"  # MLflow's tag of a child run


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
