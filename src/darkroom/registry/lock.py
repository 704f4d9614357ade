"""One writer at a time for a registered model, by the strongest lock that its store offers.

    store             lock                                     what it guarantees
    sqlite file       a lock file beside the database          one writer on the machine; freed when its holder dies.
                                                               File locks of network drives are as good as the drive
    postgresql        pg_advisory_xact_lock in a transaction   one writer on all hosts; freed when its holder dies or
                      that stays open                          its host has been silent for two minutes
    MLflow server,    a queue of claims kept as tags of the    one writer on all hosts, as long as the server reads
    other databases   registered model                         what it wrote (no read replica) and no holder is stopped
                                                               for more than EXPIRY_SECONDS

An MLflow server has no compare-and-set. The claims are the tickets of Lamport's bakery (Lamport 1974), which needs
nothing but reads and writes, and neither a common clock nor a list of who takes part: a claim without a number is being
drawn, the lowest number is served first. A claim that has not changed for EXPIRY_SECONDS, by the clock of the one who
watches it, belongs to a dead process and is removed. A process that was stopped for that long may therefore find its
place taken; it makes sure before each write that it still holds the lock, but between that look and the write lies a
moment that no tag can close. For this reason every alias is also read back after it was set.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from darkroom.errors import LockedError, RegistryError
from darkroom.project.locks import store_lock
from darkroom.project.text import reason, redact
from darkroom.tracking.store import registry_uri, sqlite_file, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
from darkroom.project.locks import whoami

CLAIM = "lock."  # registered-model tags lock.<token>

EXPIRY_SECONDS = 60.0  # a claim that is still the same after so long belongs to a dead process

POLL_SECONDS = 0.2  # of the first in the queue; those behind ask less often


@contextmanager
def registry_lock(name: str, opened: "MlflowClient", *, timeout: float = 180.0) -> Iterator[Callable[[], None]]:
    """Hold the lock of a registered model, which must exist; yield a function to call before each write.

    That function raises a RegistryError if the lock is held no longer.

    Raises:
        LockedError: another process still held it after `timeout` seconds.
        RegistryError: the store does not answer.
    """
    uri = registry_uri()
    if file := sqlite_file(uri):
        with store_lock("registry", timeout=timeout, root=file.parent):
            yield _held
    elif urlsplit(uri).scheme.partition("+")[0] == "postgresql":
        with _advisory_lock(uri, name, timeout=timeout) as check:
            yield check
    else:
        claim = _Claim(name, opened)
        claim.take(timeout=timeout)
        try:
            yield claim.check
        finally:
            with suppress(RegistryError):  # what was done is done; a claim that stays is taken for dead after a while
                claim.remove()


def _held() -> None:
    """A lock of the kernel cannot be lost."""


@contextmanager
def _advisory_lock(uri: str, name: str, *, timeout: float) -> Iterator[Callable[[], None]]:
    """Hold PostgreSQL's advisory lock of the name; of a transaction, which connection poolers pass on unchanged."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    key = int.from_bytes(hashlib.sha256(f"darkroom registry {name}".encode()).digest()[:8], signed=True)
    settings = {
        "lock_timeout": f"{round(timeout * 1000)}ms",
        "idle_in_transaction_session_timeout": "0",  # the transaction does nothing but hold the lock
        "tcp_keepalives_idle": "30",  # a holder whose host has vanished is noticed within two minutes
        "tcp_keepalives_interval": "30",
        "tcp_keepalives_count": "3",
    }
    engine = create_engine(uri, poolclass=NullPool)

    def check() -> None:
        try:
            connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise RegistryError(f"the lock of {name} is lost: {reason(error)}; run the same again") from error

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
                raise LockedError(_too_long(name, "another process", timeout)) from None
            raise RegistryError(f"MLflow store {redact(uri)}: {reason(error)}") from error
        yield check


class _Claim:
    """This process's place in the queue for a registered model: a tag that only this object writes."""

    def __init__(self, name: str, opened: "MlflowClient") -> None:
        self._name = name
        self._client = opened
        self._token = token_hex(8)
        self._number: int | None = None
        self._beats = 0
        self._written = 0.0  # by time.monotonic()
        self._seen: dict[str, tuple[Mapping[str, Any], float]] = {}  # others' claims, and since when they are the same

    def take(self, *, timeout: float) -> None:
        """Wait for this claim's turn.

        Raises:
            LockedError: it did not come within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        self._draw()
        while True:
            claims = self._claims()
            mine = claims.pop(self._token, None)
            if mine is None or self._is_late():  # somebody took this process for dead, or may do so any moment
                self._draw()
                continue
            ahead = {token: claim for token, claim in claims.items() if self._goes_first(token, claim)}
            if not ahead:
                return
            self._remove_dead(ahead)
            if time.monotonic() > deadline:
                self.remove()
                raise LockedError(
                    _too_long(self._name, " and ".join(claim["who"] for claim in ahead.values()), timeout)
                )
            if time.monotonic() - self._written > EXPIRY_SECONDS / 4:
                self._write()
            wait = min(POLL_SECONDS * len(ahead), EXPIRY_SECONDS / 20)
            time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  (spreads requests, no secret)

    def check(self) -> None:
        """Make sure that the lock is still held, and say so to those who wait.

        Raises:
            RegistryError: it is not, or may not be.
        """
        if self._is_late() or self._token not in self._claims():
            raise RegistryError(
                f"the lock of {self._name} is lost: this process was stopped for too long; run the same again"
            )
        if time.monotonic() - self._written > EXPIRY_SECONDS / 4:
            self._write()

    def remove(self) -> None:
        """Leave the queue."""
        self._delete(self._token)

    def _draw(self) -> None:
        """Enter the queue with a number that is higher than all others."""
        self._number = None
        self._write()
        numbers = [claim["number"] or 0 for claim in self._claims().values()]
        self._number = 1 + max(numbers, default=0)
        if not self._is_late():
            self._write()

    def _goes_first(self, token: str, claim: Mapping[str, Any]) -> bool:
        return claim["number"] is None or (claim["number"], token) < (self._number, self._token)

    def _is_late(self) -> bool:
        return time.monotonic() - self._written > EXPIRY_SECONDS / 2

    def _remove_dead(self, claims: Mapping[str, Mapping[str, Any]]) -> None:
        now = time.monotonic()
        for token, claim in claims.items():
            seen, since = self._seen.get(token, (None, now))
            if seen != claim:
                self._seen[token] = (claim, now)
            elif now - since > EXPIRY_SECONDS:
                self._delete(token)

    def _claims(self) -> dict[str, Mapping[str, Any]]:
        with store_errors(registry_uri()):
            tags = self._client.get_registered_model(self._name).tags
        return {key.removeprefix(CLAIM): _parsed(value) for key, value in tags.items() if key.startswith(CLAIM)}

    def _write(self) -> None:
        self._beats += 1
        self._written = time.monotonic()  # before the call: what counts is since when others can have seen it
        claim = {
            "who": f"{whoami()} (process {os.getpid()})",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "number": self._number,
            "beats": self._beats,
        }
        with store_errors(registry_uri()):
            self._client.set_registered_model_tag(self._name, f"{CLAIM}{self._token}", json.dumps(claim))

    def _delete(self, token: str) -> None:
        with store_errors(registry_uri()):
            self._client.delete_registered_model_tag(self._name, f"{CLAIM}{token}")


def _parsed(value: str) -> Mapping[str, Any]:
    """Return a claim; of what cannot be read, one that nobody renews, so that it is removed after a while."""
    try:
        claim = json.loads(value)
        number = None if claim["number"] is None else int(claim["number"])
        return {"who": str(claim["who"]), "number": number, "beats": claim["beats"]}
    except (ValueError, KeyError, TypeError):
        return {"who": "somebody", "number": None, "beats": value}


def _too_long(name: str, who: str, timeout: float) -> str:
    return f"the registry of {name} was held by {who} for {timeout:.0f} s; try again when it is done"
