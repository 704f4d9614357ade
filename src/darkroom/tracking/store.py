"""The MLflow store of this repository: its location, connection, and the lock of its writers.

MLflow is imported on first use: it costs 3 s, and 2 s more for a database.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from darkroom.errors import RegistryError
from darkroom.project.locks import store_lock
from darkroom.project.repository import repository_root
from darkroom.tracking.refusals import is_refusal, refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

BUSY_SECONDS = 20  # maximum wait for a sqlite file that another process has locked
PROBE_SECONDS = 5  # maximum wait for a server's first answer
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_UV_AUTO_DETECT": "false",  # otherwise a uv.lock in the working directory replaces the pinned requirements
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",  # otherwise every logged model costs a `pip install --dry-run`
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the sqlite file at the repository's root; relative sqlite paths are made absolute.

    Raises:
        RegistryError: the URI names a directory; MLflow no longer has file stores.
    """
    return _resolved("MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")


def registry_uri() -> str:
    """Return the URI of the store of registered models: MLFLOW_REGISTRY_URI, else the tracking store.

    Raises:
        RegistryError: see tracking_uri.
    """
    given = os.environ.get("MLFLOW_REGISTRY_URI")
    return _resolved("MLFLOW_REGISTRY_URI", given) if given else tracking_uri()


def _resolved(variable: str, uri: str) -> str:
    """Return the URI with an absolute sqlite path; MLflow decodes its percent escapes."""
    if uri.startswith("sqlite:///"):
        path, _, query = uri.removeprefix("sqlite:///").partition("?")
        as_written, decoded = Path(repository_root(), path), Path(repository_root(), unquote(path))
        refuse_escapes(as_written if as_written.parent.exists() and not decoded.parent.exists() else decoded)
        return f"sqlite:///{as_written}" + (f"?{query}" if query else "")
    if urlsplit(uri).scheme in ("", "file"):
        raise RegistryError(
            f"{variable}={uri}: MLflow no longer keeps runs in plain directories; unset it to use "
            "mlflow.db of this repository, or name a server (http://...) or a database (postgresql://..., sqlite:///...)"
        )
    return uri


def refuse_escapes(path: Path) -> None:
    """Refuse a path with percent escapes, which MLflow decodes twice, or with a `?`.

    Raises:
        RegistryError: the path has one.
    """
    if "?" in str(path) or unquote(str(path)) != str(path):
        raise RegistryError(
            f"{path}: MLflow finds no files under a path with ? or percent escapes such as %20; rename the directory"
        )


def sqlite_file(uri: str) -> Path | None:
    """Return the database file of a sqlite URI, None for other stores."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])) if uri.startswith("sqlite:///") else None


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, a database driver or the network into a RegistryError that names the store."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        raise refusal(uri, error, variable=variable_of(uri)) from error


def variable_of(uri: str) -> str:
    """Return the environment variable that names this store."""
    own = os.environ.get("MLFLOW_REGISTRY_URI") and uri == registry_uri() != tracking_uri()
    return "MLFLOW_REGISTRY_URI" if own else "MLFLOW_TRACKING_URI"


def existing(call: Callable[[], T]) -> T | None:
    """Return the result of a call to the store, None if the store answers that the object does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def download(uri: str, folder: Path | str) -> Path:
    """Copy or download the file or directory of an artifact URI into `folder`, and return its path."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder)))


def client() -> "MlflowClient":
    """Return an MLflow client of this repository's store, after checking that it answers and has its tables.

    Raises:
        RegistryError: no answer within about 10 seconds, or the store refuses.
    """
    uri = tracking_uri()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.pop("MLFLOW_RUN_ID", None)
    for database in {uri, registry_uri()}:
        _probe_database(database)
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs tracebacks, too
    if os.environ.get("MLFLOW_REGISTRY_URI"):
        mlflow.set_registry_uri(registry_uri())  # for the client below, and for child processes in other directories
    mlflow.set_tracking_uri(uri)  # artifacts of `models:/...` are resolved against this global, not the client
    # MLflow creates its tables without a lock: two processes that start together would clash.
    with store_errors(uri), store_lock("tracking"):
        opened = mlflow.MlflowClient(tracking_uri=uri)
        _probe_servers(opened)
    return opened


def _probe_database(uri: str) -> None:
    """Connect to the database once; MLflow itself retries for two minutes, with a traceback for each attempt."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in ("sqlite", *PORTS):
        return
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        if file := sqlite_file(uri):
            file.parent.mkdir(parents=True, exist_ok=True)
        elif parts.hostname:
            socket.create_connection((parts.hostname, parts.port or PORTS[scheme]), timeout=PROBE_SECONDS).close()
        waits = {"sqlite": {"timeout": BUSY_SECONDS}, "postgresql": {"connect_timeout": PROBE_SECONDS}}
        with create_engine(uri, poolclass=NullPool, connect_args=waits.get(scheme, {})).connect() as connection:
            if file:
                connection.exec_driver_sql("PRAGMA schema_version")  # reads the file, which opening it does not
    except (OSError, ImportError, SQLAlchemyError) as error:
        raise _unreachable(uri, error) from error


def _probe_servers(opened: "MlflowClient") -> None:
    """Ask each MLflow server one question, without the retries (4 minutes) that are right during a training."""
    questions = {registry_uri(): opened.search_registered_models, tracking_uri(): opened.search_experiments}
    lowered = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_SECONDS)}
    before = {name: os.environ.get(name) for name in lowered}
    os.environ.update(lowered)
    try:
        for uri, ask in questions.items():
            if uri.startswith("http"):
                _ask(uri, ask)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ask(uri: str, question: Callable[..., object]) -> None:
    try:
        question(max_results=1)
    except Exception as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> RegistryError:
    variable = variable_of(uri)
    start = f"start it, or correct {variable}, or unset it to use mlflow.db of this repository"
    return refusal(uri, error, variable=variable, remedy=start)
