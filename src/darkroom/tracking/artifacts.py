"""The location of a store's artifacts: mlartifacts beside a sqlite file, also after the store was copied or moved.

MLflow records absolute locations. A copy of a repository would write to the original's directories, and `gc` would
delete there; after a move nothing would be found. Therefore locations are read relative to the store's own, nothing is
written while the two disagree, and `relocate` corrects the recorded ones.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from darkroom.errors import RegistryError
from darkroom.project.locks import store_lock
from darkroom.project.repository import repository_root
from darkroom.project.text import reason, redact
from darkroom.tracking.store import client, refuse_escapes, registry_uri, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from sqlalchemy import Connection

FOLDER = "mlartifacts"
EXPERIMENTS = ("experiments", "artifact_location")
RECORDED = (  # the columns of MLflow's tables with locations
    EXPERIMENTS,
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("trace_tags", "value"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifact_folder(uri: str, experiment: str) -> Path:
    """Return where an experiment's artifacts belong: beside a sqlite file, in the repository for other databases.

    Raises:
        RegistryError: MLflow cannot read files there.
    """
    base = file.parent if (file := sqlite_file(uri)) else repository_root()
    refuse_escapes(base)
    return base / FOLDER / re.sub(r"[^\w.-]", "_", experiment)


def local_folder(location: str) -> Path | None:
    """Return the directory of a file:// URI or plain path, None for remote storage."""
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path)) if parts.scheme else Path(location)
    return None


def is_gone(location: str) -> bool:
    """Return whether a file:// location is on this machine and does not exist."""
    # A plain path is MLflow's default, which it creates at the first write.
    folder = local_folder(location) if location.startswith("file:") else None
    return folder is not None and not folder.exists()


def here(location: str) -> str:
    """Return the present location for a recorded one: beside the sqlite file if it exists there, else as recorded."""
    file, (_, folder, rest) = sqlite_file(tracking_uri()), location.rpartition(f"/{FOLDER}/")
    if file is None or not folder or not location.startswith("file:"):
        return location
    beside = f"{(file.parent / FOLDER).as_uri()}/{rest}"
    return location if is_gone(beside) else beside


def misplaced() -> dict[str, str]:
    """Return the wrong locations of experiments, each with the right one.

    Another database than a file may serve several repositories, so there a location is wrong only if it is gone and the
    right one exists.

    Raises:
        RegistryError: the store does not answer.
    """
    uri, found = tracking_uri(), {}
    file = sqlite_file(uri)
    if uri.startswith("http") or (file and not file.exists()):
        return {}
    client()  # creates the tables if necessary
    with _transaction(uri) as connection:
        recorded = _experiments(connection)
    for name, location in recorded:
        now = artifact_folder(uri, name)
        old = local_folder(location) if location.endswith(f"/{FOLDER}/{now.as_uri().rpartition('/')[2]}") else None
        if old is None or old.resolve() == now.resolve():
            continue
        if file or (now.is_dir() and not old.exists()):
            found[location] = now.as_uri()
    return found


def refuse_misplaced() -> None:
    """Check that a sqlite store was not copied or moved, so that no artifacts are written to another repository.

    Raises:
        RegistryError: it was.
    """
    if (file := sqlite_file(tracking_uri())) and (found := misplaced()):
        raise RegistryError(
            f"the MLflow store {file} was copied or moved: its artifacts are recorded in {next(iter(found))}, but they "
            f"belong beside it; run `darkroom registry-check --repair` once, which corrects that"
        )


def relocate() -> None:
    """Record the present locations of experiments, runs and models; copy files that exist only in the old ones.

    Raises:
        RegistryError: the store does not answer, or refuses.
    """
    found, registry = misplaced(), registry_uri()
    with store_lock("tracking"):
        for uri in dict.fromkeys((tracking_uri(), registry)):
            # A separate registry may be shared with the original of a copy, where the old locations are right.
            moves = {old: new for old, new in found.items() if uri == tracking_uri() or is_gone(old)}
            if moves and not uri.startswith("http"):
                _move(uri, moves)


def _move(uri: str, moves: Mapping[str, str]) -> None:
    with _transaction(uri) as connection:
        for old, new in moves.items():
            _replace(connection, old, new)


def _replace(connection: "Connection", old: str, new: str) -> None:
    from sqlalchemy import String, column, func, inspect, literal, select, table, update

    known = inspect(connection).get_table_names()
    for name, key in RECORDED:
        if name not in known:
            continue
        place: Any = column(key, String)
        rows = table(name, place)
        inside = (place == old) | (func.substring(place, 1, len(old) + 1) == f"{old}/")
        if (name, key) != EXPERIMENTS:
            for (location,) in connection.execute(select(place).where(inside)).all():
                _copy(location, new + location.removeprefix(old))
        rest = func.substring(place, len(old) + 1, type_=String)
        connection.execute(update(rows).where(inside).values({key: literal(new) + rest}))


def _copy(old: str, new: str) -> None:
    """Copy files that a copy of the repository wrote to the original's directory, before that was refused."""
    source, target = local_folder(old), local_folder(new)
    if source and target and source.is_dir() and not target.exists():
        part = target.with_name(f"{target.name}.part")  # an interrupted copy must not look complete
        if part.exists():
            shutil.rmtree(part)
        shutil.copytree(source, part)
        part.rename(target)


def _experiments(connection: "Connection") -> list[tuple[str, str]]:
    from sqlalchemy import column, select, table

    name, key = EXPERIMENTS
    rows: Sequence[Any] = connection.execute(select(column("name"), column(key)).select_from(table(name))).all()
    return [(str(experiment), str(location)) for experiment, location in rows]


@contextmanager
def _transaction(uri: str) -> Iterator["Connection"]:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        with create_engine(uri, poolclass=NullPool).begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise RegistryError(f"MLflow store {redact(uri)}: {reason(error)}") from error
