"""Where a store's artifacts lie: in mlartifacts beside a sqlite file, also after the store was copied or moved.

MLflow records absolute places. A copy of a repository would go on writing to the original's directories, and `gc` would
delete there; after a move nothing would be found. So places are read relative to the store's own, nothing is written
while the two disagree, and `relocate` corrects what is recorded.
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
RECORDED = (  # the columns of MLflow's tables that hold such places
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
        RegistryError: MLflow would find no files there.
    """
    base = file.parent if (file := sqlite_file(uri)) else repository_root()
    refuse_escapes(base)
    return base / FOLDER / re.sub(r"[^\w.-]", "_", experiment)


def local_folder(location: str) -> Path | None:
    """Return the directory of a file:// URI or plain path, None where that is remote storage."""
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path)) if parts.scheme else Path(location)
    return None


def is_gone(location: str) -> bool:
    """Return whether a file:// location lies on this machine and does not exist."""
    # A plain path is MLflow's default, which it makes when it first writes there.
    folder = local_folder(location) if location.startswith("file:") else None
    return folder is not None and not folder.exists()


def here(location: str) -> str:
    """Return where a recorded place is now: beside the sqlite file if it is there, else as recorded."""
    file, (_, folder, rest) = sqlite_file(tracking_uri()), location.rpartition(f"/{FOLDER}/")
    if file is None or not folder or not location.startswith("file:"):
        return location
    beside = f"{(file.parent / FOLDER).as_uri()}/{rest}"
    return location if is_gone(beside) else beside


def misplaced() -> dict[str, str]:
    """Return the recorded places of experiments that are not where they belong, each with the place where they do.

    A database that is not a file may serve several repositories: of it only what is gone there and found here.

    Raises:
        RegistryError: the store does not answer.
    """
    uri, found = tracking_uri(), {}
    file = sqlite_file(uri)
    if uri.startswith("http") or (file and not file.exists()):
        return {}
    client()  # makes sure that there are tables
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
    """Refuse to write to a sqlite store that was copied or moved, before artifacts go to another repository.

    Raises:
        RegistryError: says what to do.
    """
    if (file := sqlite_file(tracking_uri())) and (found := misplaced()):
        raise RegistryError(
            f"the MLflow store {file} was copied or moved: its artifacts are recorded in {next(iter(found))}, but they "
            f"belong beside it; run `darkroom registry-check --repair` once, which corrects that"
        )


def relocate() -> None:
    """Record the places where experiments, runs and models are now; what only the old place has is copied from there.

    Raises:
        RegistryError: the store does not answer, or refuses.
    """
    found, registry = misplaced(), registry_uri()
    with store_lock("tracking"):
        for uri in dict.fromkeys((tracking_uri(), registry)):
            # A registry apart from the runs may be shared with the original of a copy: there the old places are right.
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
    """Copy what a copy of the repository wrote to the original's directory, as it did before that was refused."""
    source, target = local_folder(old), local_folder(new)
    if source and target and source.is_dir() and not target.exists():
        part = target.with_name(f"{target.name}.part")  # a copy that was cut short must not pass for a whole one
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
