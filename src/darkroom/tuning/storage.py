"""The storage of a study: open it, read trials back, and explain why it does not answer."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial

from darkroom.errors import SearchError
from darkroom.project.text import reason, redact
from darkroom.tuning.rows import TrialRow

ANSWER_SECONDS = 5  # maximum wait for a storage
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "oracle": 1521, "mssql": 1433}

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(storage: str, *, create: bool) -> BaseStorage:
    """Return Optuna's storage for the path of a journal file, the URL of a database, or grpc://host:port.

    Args:
        create: True for the coordinator, which creates missing files or tables and keeps connections open; False for
            workers and readers.
    """
    if "://" not in storage:
        path = Path(storage)
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))
    parts = urlsplit(storage)
    scheme = parts.scheme.partition("+")[0]
    port = parts.port or PORTS.get(scheme)
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), timeout=ANSWER_SECONDS).close()
    if scheme == "grpc":
        if not parts.hostname or not parts.port:
            raise SearchError(f"tune.storage is {storage}: expected grpc://host:port of an Optuna proxy")
        return GrpcStorageProxy(host=parts.hostname, port=parts.port)
    from sqlalchemy.pool import NullPool

    engine: dict[str, Any] = {"connect_args": {"connect_timeout": ANSWER_SECONDS} if scheme == "postgresql" else {}}
    if create:
        engine["pool_pre_ping"] = True  # detects connections that were lost during a long trial
    else:
        engine["poolclass"] = NullPool  # hundreds of workers report rarely, so none keeps a connection open
    return RDBStorage(storage, engine_kwargs=engine, skip_table_creation=not create)


class _JournalLock(JournalFileOpenLock):
    """A lock that the kernel frees when its holder is killed; Optuna's own would remain for 30 seconds.

    An incomplete line of a killed writer is removed, because the next line would be appended to it and make the journal
    unreadable.
    """

    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        self._path, self._lock = path, FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        with self._path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end and not _ends_a_line(file, end):
                end -= 1
            file.truncate(end)
        return True

    def release(self) -> None:
        self._lock.release()


def _ends_a_line(file: Any, end: int) -> bool:
    file.seek(end - 1)
    return bool(file.read(1) == b"\n")


def read_rows(name: str, storage: str) -> list[TrialRow]:
    """Return every trial of a study, which may be running elsewhere; nothing is changed.

    Raises:
        SearchError: the storage does not answer, or has no such study.
    """
    if "://" not in storage and not Path(storage).is_file():
        raise SearchError(f"there is no study in {storage}; set tune.trials above 0 and run `dvc repro`")
    with storage_errors(storage):
        try:
            study = load_study(name, storage)
        except KeyError:
            raise SearchError(f"there is no study {name!r} in {redact(storage)}; it may have been deleted") from None
        return [row_of(trial) for trial in study.get_trials(deepcopy=False)]


@cache
def load_study(study: str, storage: str) -> optuna.Study:
    """Return a study for workers and readers, cached per process, because reading a long one takes seconds.

    Raises:
        KeyError: the storage has no such study.
    """
    # No trial is drawn here, but Optuna's default sampler would draw for every Trial that is created from its number.
    sampler = optuna.samplers.RandomSampler()
    return optuna.load_study(study_name=study, storage=open_storage(storage, create=False), sampler=sampler)


def row_of(trial: FrozenTrial) -> TrialRow:
    """Return the row of a trial, with the attributes that the search and its worker have set."""
    said = trial.user_attrs
    marks = [mark for mark in ("killed", "failed") if said.get(mark)]  # see Search.tell and lose
    state = marks[0] if marks and trial.state.is_finished() else trial.state.name.lower()
    started = trial.datetime_start.timestamp() if trial.datetime_start else None
    ended = trial.datetime_complete.timestamp() if trial.datetime_complete else time.time()
    return TrialRow(
        number=trial.number,
        state=state,
        params=dict(trial.params),
        metrics=dict(said.get("metrics", {})),
        curve=_curve(trial),
        feasible=all(value <= 0 for value in trial.constraints.values()),
        is_baseline=bool(said.get("baseline")),
        right=said.get("right", ""),
        retry_of=said.get("retry_of"),
        reason=said.get("reason"),
        worker=said.get("worker"),
        started=started,
        seconds=None if started is None or state == "waiting" else max(0.0, ended - started),
    )


def _curve(trial: FrozenTrial) -> dict[int, float]:
    """Return the validation accuracy by epoch, counted from 1."""
    if trial.intermediate_values:
        return dict(trial.intermediate_values)
    return {int(epoch): value for epoch, value in trial.user_attrs.get("curve", {}).items()}


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turn errors of a storage, its driver or the network into a SearchError that names the storage."""
    kinds: tuple[type[BaseException], ...] = (
        *(OSError, ValueError, optuna.exceptions.StorageInternalError, optuna.exceptions.UpdateFinishedTrialError),
    )
    with suppress(ImportError):
        from sqlalchemy.exc import SQLAlchemyError

        kinds = (*kinds, SQLAlchemyError, ModuleNotFoundError)
    if "://" in storage:
        with suppress(ImportError):
            import grpc

            kinds = (*kinds, grpc.RpcError)
    try:
        yield
    except kinds as error:
        raise SearchError(
            f"the tuning storage {redact(storage)} does not answer correctly ({reason(error)}); start it, or "
            "correct tune.storage, or set it to null for a file of this repository"
        ) from error
