"""Atomic moves of aliases, and their history.

MLflow sets one alias at a time and keeps no history. Here moves that belong together are first written to one tag of
the registered model (`unfinished`), then made, then recorded in the history (tags history.NNNNNN); then the tag is
removed. If a process dies, the next one that opens the ledger finishes its moves; every step can be repeated. Old
entries are packed into a few tags (archive.NNNNNN), because every reader gets all tags of a model. An alias that was
moved elsewhere (in MLflow's UI) is recorded, and never moved back.

If the lock does not exclude other writers (over HTTP, see lock.py), two of them notice each other: each reads all
aliases after it wrote `unfinished`, and `unfinished` after it moved an alias. If both make their moves, at least one of
these reads comes after the other's write.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from darkroom.errors import RegistryError
from darkroom.project.locks import whoami
from darkroom.registry.lock import registry_lock
from darkroom.registry.snapshot import ARCHIVE, HISTORY, KEPT, UNFINISHED, Registered, packed
from darkroom.registry.versions import read
from darkroom.tracking.artifacts import refuse_misplaced
from darkroom.tracking.store import client, existing, registry_uri, store_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
HOLD = "hold"  # on the champion that a rollback restored; promotions wait until a person lifts it
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS, HOLD)
TAG_CHARACTERS = 5000  # MLflow's limit for a registered model's tag


@dataclass(frozen=True)
class Move:
    """The move of an alias from one version to another; None: no version."""

    alias: str
    before: str | None
    to: str | None
    reasons: Sequence[str]


@dataclass(frozen=True)
class Mark:
    """A tag of a version to set, or to remove if value is None."""

    version: str
    key: str
    value: str | None


@contextmanager
def ledger(name: str) -> "Iterator[Ledger]":
    """Open the ledger of an existing registered model under its lock, and finish unfinished moves.

    Raises:
        LockedError: another process held the lock for three minutes.
        RegistryError: the store does not answer, refuses, or was copied or moved.
    """
    opened = client()  # imports MLflow, 5 s: before the lock
    refuse_misplaced()
    with registry_lock(name) as check:
        book = Ledger(name, opened, check)
        book.settled = book._settle()
        yield book


class Ledger:
    """The writing side of one registered model; made by `ledger`, which holds the lock.

    Attributes:
        settled: a sentence for every move that was finished or recorded when the ledger was opened.
        finished: the moves of a dead process that were finished, None if there were none.
    """

    def __init__(self, name: str, opened: "MlflowClient", check: "Callable[[], None]") -> None:
        self.name = name
        self.client = opened
        self._check = check
        self._known: Registered | None = None
        self.settled: list[str] = []
        self.finished: list[Move] | None = None

    def read(self) -> Registered:
        """Return the registered model as last read; nobody else can write without this lock."""
        if self._known is None:
            self._known = read(self.name)
        return self._known

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Enclose one write: check that the lock is still held, and turn errors of the store into RegistryErrors."""
        self._check()
        self._known = None
        with store_errors(registry_uri()):
            yield

    def move(self, moves: Sequence[Move], marks: Sequence[Mark] = ()) -> None:
        """Make the moves and marks, in this order, and record the moves; if interrupted, the next opening finishes.

        Raises:
            RegistryError: the store refuses, or another process writes at the same time.
        """
        registered = self.read()
        wanted = [move for move in moves if registered.aliases.get(move.alias) != move.to]
        if not wanted:
            for mark in marks:
                self._mark(registered, mark)
            return
        intent = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "who": whoami(),
            "first": registered.n_moves + 1,
            "moves": [{**asdict(move), "reasons": list(move.reasons)} for move in wanted],  # as read back from JSON
            "marks": [asdict(mark) for mark in marks],
        }
        intent = _fitting(intent)
        self._set_tag(UNFINISHED, intent)
        self._refuse_another_writer(registered, intent)
        self._finish(registered, intent)

    def _settle(self) -> list[str]:
        """Finish moves of dead processes, record moves made elsewhere, archive; return sentences about them."""
        registered, done = self.read(), []
        if intent := registered.unfinished:
            done.append(f"finished: {in_words(intent)}")
            self._finish(registered, intent)
            self.finished = [Move(**move) for move in intent["moves"]]
            registered = self.read()
        for move in unrecorded(registered):
            self._record(registered.n_moves + 1, move, at=datetime.now(UTC).isoformat(timespec="seconds"))
            done.append(
                f"recorded in the history: {move.alias} moved from {move.before or 'none'} to {move.to or 'none'}"
            )
            registered = self.read()
        self._archive(registered.old_moves)
        return done

    def _finish(self, registered: Registered, intent: Mapping[str, Any]) -> None:
        moves = [Move(**move) for move in intent["moves"]]
        if all(move.to is None or move.to in registered.versions for move in moves):
            for mark in intent["marks"]:
                self._mark(registered, Mark(**mark))
            for move in moves:
                # An alias at neither version was moved by somebody else since, and stays there.
                if registered.aliases.get(move.alias) == move.before:
                    self._set_alias(move, intent)
            for number, move in enumerate(moves, intent["first"]):
                self._record(number, move, at=intent["at"], who=intent["who"])
        with self.writing():
            self.client.delete_registered_model_tag(self.name, UNFINISHED)

    def _archive(self, old: dict[int, dict[str, Any]]) -> None:
        """Pack old entries of the history into one tag, then remove their own; a kill in between duplicates nothing.

        Done before a move, because a failure after one would look like a failed move.
        """
        if len(old) < KEPT:
            return
        while len(text := packed(old)) > TAG_CHARACTERS:
            old = dict(list(old.items())[: len(old) * 3 // 4])
        with self.writing():
            self.client.set_registered_model_tag(self.name, f"{ARCHIVE}{min(old):06d}", text)
            for number in old:
                existing(partial(self.client.delete_registered_model_tag, self.name, f"{HISTORY}{number:06d}"))

    def _set_alias(self, move: Move, intent: Mapping[str, Any]) -> None:
        with self.writing():
            if move.to is None:
                self.client.delete_registered_model_alias(self.name, move.alias)
            else:
                self.client.set_registered_model_alias(self.name, move.alias, move.to)
        found = self._read_back()
        if (now := found.aliases.get(move.alias)) != move.to:
            raise RegistryError(
                f"{self.name}: {move.alias} was set to version {move.to or 'none'} but now reads {now or 'none'}; "
                "another process has just moved it"
            )
        if found.unfinished != intent:
            raise self._another_writer()

    def _refuse_another_writer(self, registered: Registered, intent: Mapping[str, Any]) -> None:
        """Withdraw the intent just written if anything was moved since `registered` was read."""
        found = self._read_back()
        is_ours = found.unfinished == intent
        if is_ours and (found.aliases, found.n_moves) == (registered.aliases, registered.n_moves):
            return
        if is_ours:
            with self.writing():
                self.client.delete_registered_model_tag(self.name, UNFINISHED)
        raise self._another_writer()

    def _another_writer(self) -> RegistryError:
        return RegistryError(
            f"{self.name}: another process is changing the registry; let one host promote, check "
            "`darkroom history`, and run the command again"
        )

    def _read_back(self) -> Registered:
        """Read aliases and tags from the store again, without the many versions."""
        with store_errors(registry_uri()):
            model = self.client.get_registered_model(self.name)
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        return Registered(self.name, aliases=aliases, tags=model.tags)

    def _record(self, number: int, move: Move, *, at: str, who: str = "unknown") -> None:
        entry = {
            "at": at,
            "who": who,
            "alias": move.alias,
            "from": move.before,
            "to": move.to,
            "reasons": list(move.reasons),
        }
        self._set_tag(f"{HISTORY}{number:06d}", entry)

    def _set_tag(self, key: str, value: Mapping[str, Any]) -> None:
        with self.writing():
            self.client.set_registered_model_tag(self.name, key, json.dumps(value, ensure_ascii=False))

    def _mark(self, registered: Registered, mark: Mark) -> None:
        version = registered.versions.get(mark.version)
        if version is None or version.tags.get(mark.key) == mark.value:
            return
        with self.writing():
            if mark.value is not None:
                self.client.set_model_version_tag(self.name, mark.version, mark.key, mark.value)
            else:
                existing(lambda: self.client.delete_model_version_tag(self.name, mark.version, mark.key))


def unrecorded(registered: Registered) -> list[Move]:
    """Return moves that are missing in the history: made in MLflow's UI, or caused by a deleted version."""
    recorded = {entry["alias"]: entry["to"] for entry in registered.history()}
    return [
        Move(alias, recorded.get(alias), registered.aliases.get(alias), ["found moved without a record"])
        for alias in ALIASES
        if registered.aliases.get(alias) != recorded.get(alias)
    ]


def in_words(intent: Mapping[str, Any]) -> str:
    """Return the intended moves in words."""
    moves = [f"{move['alias']} from {move['before'] or 'none'} to {move['to'] or 'none'}" for move in intent["moves"]]
    return f"{', '.join(moves)}, begun by {intent['who']} at {intent['at']}"


def _fitting(intent: dict[str, Any]) -> dict[str, Any]:
    """Return the intent with reasons cut to fit into one tag, and therefore also into entries of the history."""
    length = 1600
    while len(json.dumps(intent, ensure_ascii=False)) > TAG_CHARACTERS and length > 20:
        length //= 2
        for part in (*intent["moves"], *intent["marks"]):
            if "reasons" in part:
                part["reasons"] = [_cut(reason, length) for reason in part["reasons"]]
            elif part["value"] is not None:
                part["value"] = _cut(part["value"], length)
    return intent


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
