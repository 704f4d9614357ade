"""A registered model as it was read at one moment: its versions, aliases, tags, and the history that the tags hold."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.errors import RegistryError

MODEL_FILE = "artifacts/model.onnx"  # inside a version's directory
PACKAGE_FILE = "code/package.py"
IMPORTED_FILES = ("code/headers.py", "code/images.py")  # by package.py, in this order; versions of before have none
DOWNLOAD_NOTE = "registered_model_meta"  # MLflow writes it into a directory that it downloads; no file of a version
SHA256 = "sha256/"  # version tags sha256/<path of a file>
HISTORY = "history."  # registered-model tags history.000001, ...
UNFINISHED = "unfinished"  # registered-model tag: moves that began and have not ended, see ledger.py


@dataclass(frozen=True)
class Version:
    """One registered version. `location` is where its files are, a URI; `tags` hold its lineage and sha256 sums."""

    name: str
    version: str
    run_id: str | None
    location: str
    tags: Mapping[str, str]

    @property
    def model_sha256(self) -> str | None:
        """The sha256 of model.onnx, by which a version is recognised."""
        return self.tags.get(f"{SHA256}{MODEL_FILE}")


@dataclass(frozen=True)
class Registered:
    """Everything about one registered model, read at one moment. A name that is not registered has no versions."""

    name: str
    versions: Mapping[str, Version] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def under(self, alias: str) -> Version | None:
        """Return the version that the alias names, None if it names none."""
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
        return [self._parsed(key) for key in self._entries()]

    def reigns(self) -> list[dict[str, Any]]:
        """Return what was champion when, oldest first: {version, since, until, who, reasons}; until None: it still is.

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
    def n_moves(self) -> int:
        """The number of the newest entry of the history, 0 where there is none."""
        entries = self._entries()
        return int(entries[-1].removeprefix(HISTORY)) if entries else 0

    @property
    def unfinished(self) -> dict[str, Any] | None:
        """The moves that a process began and has not ended (it runs, or it died), None where there are none."""
        return self._parsed(UNFINISHED) if UNFINISHED in self.tags else None

    def _entries(self) -> list[str]:
        return sorted(key for key in self.tags if re.fullmatch(rf"{re.escape(HISTORY)}\d+", key))

    def _parsed(self, key: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.tags[key]))
        except (ValueError, TypeError):
            raise RegistryError(
                f"{self.name}: the tag {key} of the registered model is damaged ({self.tags[key][:40]!r}); fix or "
                "delete it in MLflow's UI"
            ) from None
