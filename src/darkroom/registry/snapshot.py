"""A registered model as read at one moment: its versions, aliases, tags, and the history in the tags."""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from darkroom.deployable.code_files import IMPORTED
from darkroom.errors import RegistryError

MODEL_FILE = "artifacts/model.onnx"  # inside a version's directory
PACKAGE_FILE = "code/package.py"
# Files imported by package.py, in this order; older versions lack some.
IMPORTED_FILES = tuple(f"code/{name}" for name in IMPORTED)
DOWNLOAD_NOTE = "registered_model_meta"  # written by MLflow into downloaded directories; not a file of a version
SHA256 = "sha256/"  # version tags sha256/<path of a file>
HISTORY = "history."  # registered-model tags history.000001, ...
ARCHIVE = "archive."  # registered-model tags archive.000001, ...: older entries of the history, many in one tag
UNFINISHED = "unfinished"  # registered-model tag: unfinished moves, see ledger.py


KEPT = 50  # newest entries of the history that are never archived


@dataclass(frozen=True)
class Version:
    """One registered version; `location` is the URI of its files, `tags` have its lineage and checksums."""

    name: str
    version: str
    run_id: str | None
    location: str
    tags: Mapping[str, str]

    @property
    def model_sha256(self) -> str | None:
        """The sha256 of model.onnx, by which a version is recognised."""
        return self.tags.get(f"{SHA256}{MODEL_FILE}")


class Hold(NamedTuple):
    """Why promotions wait for a person, and since when (ISO 8601; None: the alias was set elsewhere)."""

    since: str | None
    reason: str

    def is_over(self, days: float | None, now: datetime) -> bool:
        """Return whether it has ended, given its duration in days; None: only a person ends it."""
        if days is None or self.since is None:
            return False
        return (now - datetime.fromisoformat(self.since)).total_seconds() >= days * 86400

    def __str__(self) -> str:
        return f"promotions are on hold since {self.since or 'a time that is not recorded'} ({self.reason})"


@dataclass(frozen=True)
class Registered:
    """One registered model, read at one moment. A name that is not registered has no versions."""

    name: str
    versions: Mapping[str, Version] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def under(self, alias: str) -> Version | None:
        """Return the version under an alias, None if there is none."""
        return self.versions.get(self.aliases.get(alias, ""))

    def with_model(self, sha256: str) -> Version | None:
        """Return the newest version whose model.onnx has this sha256, None if there is none."""
        found = [version for version in self.versions.values() if version.model_sha256 == sha256]
        return max(found, key=lambda version: int(version.version), default=None)

    def history(self) -> list[dict[str, Any]]:
        """Return every recorded alias move, oldest first: {at, who, alias, from, to, reasons}.

        Raises:
            RegistryError: an entry is damaged.
        """
        archives = sorted(key for key in self.tags if key.startswith(ARCHIVE))
        entries = {number: entry for key in archives for number, entry in self._archived(key).items()}
        entries |= {int(key.removeprefix(HISTORY)): self._parsed(key) for key in self._entries()}
        return [entries[number] for number in sorted(entries)]

    def reigns(self) -> list[dict[str, Any]]:
        """Return all champions, oldest first: {version, since, until, who, reasons}; until is None for the present one.

        A version that was champion twice has two entries.
        """
        moves = [entry for entry in self.history() if entry["alias"] == "champion"]
        ends = [*(entry["at"] for entry in moves[1:]), None]
        return [
            {
                "version": entry["to"],
                "since": entry["at"],
                "until": until,
                "who": entry["who"],
                "reasons": entry["reasons"],
            }
            for entry, until in zip(moves, ends, strict=False)
            if entry["to"]
        ]

    @property
    def hold(self) -> Hold | None:
        """The hold on promotions after a rollback, None if there is none."""
        if (version := self.aliases.get("hold")) is None:
            return None
        last = next((entry for entry in reversed(self.history()) if entry["alias"] == "hold"), None)
        if last is None or last["to"] != version:
            return Hold(None, "the alias hold was set without a record")
        return Hold(last["at"], " ".join(last["reasons"]))

    @property
    def n_moves(self) -> int:
        """The number of the newest entry of the history, 0 if there is none."""
        entries = self._entries()
        return int(entries[-1].removeprefix(HISTORY)) if entries else 0

    @property
    def unfinished(self) -> dict[str, Any] | None:
        """The unfinished moves of a process that is running or dead, None if there are none."""
        return self._parsed(UNFINISHED) if UNFINISHED in self.tags else None

    @property
    def old_moves(self) -> dict[int, dict[str, Any]]:
        """The entries that may be archived, by number: not the newest, and not the last one of an alias."""
        entries = {int(key.removeprefix(HISTORY)): self._parsed(key) for key in self._entries()}
        last = {entry["alias"]: number for number, entry in entries.items()}
        kept = {*last.values(), *list(entries)[-KEPT:]}
        return {number: entry for number, entry in entries.items() if number not in kept}

    def _archived(self, key: str) -> dict[int, dict[str, Any]]:
        try:
            return unpacked(self.tags[key])
        except (ValueError, TypeError, zlib.error):
            raise self._damaged(key) from None

    def _damaged(self, key: str) -> RegistryError:
        return RegistryError(
            f"{self.name}: the tag {key} of the registered model is damaged ({self.tags[key][:40]!r}); fix or "
            "delete it in MLflow's UI"
        )

    def _entries(self) -> list[str]:
        return sorted(key for key in self.tags if re.fullmatch(rf"{re.escape(HISTORY)}\d+", key))

    def _parsed(self, key: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.tags[key]))
        except (ValueError, TypeError):
            raise self._damaged(key) from None


def packed(entries: Mapping[int, Mapping[str, Any]]) -> str:
    """Return entries of the history, by number, as text for a tag."""
    return base64.b85encode(zlib.compress(json.dumps(entries, ensure_ascii=False).encode(), 9)).decode()


def unpacked(text: str) -> dict[int, dict[str, Any]]:
    """Return the entries of a packed text.

    Raises:
        ValueError, zlib.error: the text is damaged.
    """
    return {int(key): entry for key, entry in json.loads(zlib.decompress(base64.b85decode(text))).items()}
