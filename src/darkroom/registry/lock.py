"""One writer at a time for a registered model, by the strongest lock that its store offers.

    store             lock                                     what it guarantees
    sqlite file       a lock file beside the database          one writer on the machine; freed when its holder dies.
                                                               File locks of network drives are as good as the drive
    postgresql        pg_advisory_xact_lock in a transaction   one writer on all hosts; freed when its holder dies or
                      that stays open                          its host has been silent for two minutes
    MLflow server,    a lock file in .darkroom of this         one writer in this checkout, none kept out elsewhere:
    other databases   repository                               let one host promote

An MLflow server has no lock and no compare-and-set. If two hosts promote at the same time, ledger.py notices when it
reads back, and at least one of them fails.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from darkroom.errors import LockedError, RegistryError
from darkroom.project.locks import store_lock
from darkroom.project.text import reason, redact
from darkroom.tracking.store import registry_uri, sqlite_file


@contextmanager
def registry_lock(name: str, *, timeout: float = 180.0) -> Iterator[Callable[[], None]]:
    """Hold the lock of a registered model; yield a function to call before each write.

    That function raises a RegistryError if the lock was lost.

    Raises:
        LockedError: another process still held it after `timeout` seconds.
        RegistryError: the store does not answer.
    """
    uri = registry_uri()
    if urlsplit(uri).scheme.partition("+")[0] == "postgresql":
        with _advisory_lock(uri, name, timeout=timeout) as check:
            yield check
    else:
        file = sqlite_file(uri)
        with store_lock("registry", timeout=timeout, root=file.parent if file else None):
            yield _held


def _held() -> None:
    """Do nothing: a lock of the kernel cannot be lost."""


@contextmanager
def _advisory_lock(uri: str, name: str, *, timeout: float) -> Iterator[Callable[[], None]]:
    """Hold PostgreSQL's advisory lock of the name, in a transaction, because connection poolers keep transactions."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    key = int.from_bytes(hashlib.sha256(f"darkroom registry {name}".encode()).digest()[:8], signed=True)
    settings = {
        "lock_timeout": f"{round(timeout * 1000)}ms",
        "idle_in_transaction_session_timeout": "0",  # the transaction only holds the lock
        "tcp_keepalives_idle": "30",  # a holder whose host has vanished is noticed within two minutes
        "tcp_keepalives_interval": "30",
        "tcp_keepalives_count": "3",
    }
    engine = create_engine(uri, poolclass=NullPool)

    def check() -> None:
        try:
            connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise RegistryError(f"the lock of {name} was lost: {reason(error)}; run the command again") from error

    try:
        connection = engine.connect()
    except SQLAlchemyError as error:
        raise RegistryError(f"MLflow store {redact(uri)}: {reason(error)}") from error
    with connection:
        try:
            for setting, value in settings.items():
                connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": setting, "value": value})
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", getattr(error.orig, "pgcode", None)) == "55P03":  # lock_not_available
                raise LockedError(
                    f"the registry of {name} was held by another process for {timeout:.0f} s; try again later"
                ) from None
            raise RegistryError(f"MLflow store {redact(uri)}: {reason(error)}") from error
        yield check
