"""Experiments of the MLflow store: created on first use, with their artifacts beside the store."""

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from darkroom.errors import RegistryError
from darkroom.project.locks import store_lock
from darkroom.project.repository import repository_root
from darkroom.project.text import redact
from darkroom.tracking.store import client, refuse_escapes, sqlite_file, store_errors, tracking_uri

if TYPE_CHECKING:
    pass


def connect(experiment: str) -> str:
    """Return the id of the experiment, created together with the store if need be.

    Artifacts go to mlartifacts/<experiment> beside a sqlite file (the repository's root for other databases, whatever
    folder the process runs in); a server decides for itself.

    Raises:
        RegistryError: the store does not answer, the experiment was deleted, or its artifacts' directory is gone.
    """
    opened = client()
    uri = tracking_uri()
    location = None if uri.startswith("http") else _artifact_folder(uri, experiment).as_uri()
    with store_errors(uri), store_lock("tracking"):
        known = opened.get_experiment_by_name(experiment)
        if known is None:
            return str(opened.create_experiment(experiment, artifact_location=location))
    if known.lifecycle_stage != "active":
        raise RegistryError(
            f"experiment {experiment!r} was deleted in the MLflow store {redact(uri)}; "
            f"restore it with `mlflow experiments restore --experiment-id {known.experiment_id}`"
        )
    if sqlite_file(uri) and known.artifact_location != location and is_gone(known.artifact_location):
        raise RegistryError(
            f"experiment {experiment!r} keeps its artifacts in {known.artifact_location}, which does not exist; was "
            "the "
            f"repository moved? Move it back, or start a new store by moving {sqlite_file(uri)} away"
        )
    return str(known.experiment_id)


def _artifact_folder(uri: str, experiment: str) -> Path:
    base = file.parent if (file := sqlite_file(uri)) else repository_root()
    refuse_escapes(base)
    return base / "mlartifacts" / re.sub(r"[^\w.-]", "_", experiment)


def is_gone(location: str) -> bool:
    """Return whether a file:// location lies on this machine and does not exist."""
    return location.startswith("file:") and not Path(unquote(urlsplit(location).path)).exists()
