"""Registered versions as a reader sees them: names, aliases, tags, history, and the model file behind each.

A sqlite store is read directly (0.01 s): the MLflow client costs 5 s of imports, which is most of what a no-op
`dvc repro` or the first answer of `darkroom predict` may take. Every other store, and a sqlite file whose tables are
not those of the pinned MLflow, is read through the client.
"""

import hashlib
import importlib.util
import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from darkroom.errors import RegistryError
from darkroom.files import sha256_of
from darkroom.repository import repository_root
from darkroom.store import client, download, existing, redact, sqlite_file, store_errors, tracking_uri

MODEL_FILE = "artifacts/model.onnx"  # inside a version's folder
PACKAGE_FILE = "code/package.py"
HISTORY = "history."  # registered-model tags history.000001, ...


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
        return self.tags.get(f"sha256/{MODEL_FILE}")


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
        """Return every recorded alias move, oldest first: {at, who, alias, from, to, reasons}."""
        return [json.loads(self.tags[key]) for key in sorted(key for key in self.tags if key.startswith(HISTORY))]


def read(name: str) -> Registered:
    """Return the registered model as it is now.

    Raises:
        RegistryError: the store does not answer.
    """
    uri = tracking_uri() if not os.environ.get("MLFLOW_REGISTRY_URI") else ""
    if file := sqlite_file(uri):
        if not file.exists():
            return Registered(name)
        try:
            return _read_sqlite(file, name)
        except sqlite3.Error:
            pass  # no tables yet, tables of another MLflow, or not a database: the client knows or says which
    return _read_client(name)


def find(name: str, *, alias: str | None = None, version: str | None = None) -> Version:
    """Return one version by its number or its alias.

    Raises:
        RegistryError: there is none; the message names those that there are.
    """
    registered = read(name)
    found = registered.versions.get(version) if version else registered.under(alias or "")
    if found:
        return found
    if not registered.versions:
        near = get_close_matches(name, known_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`dvc repro` trains and registers one"
        raise RegistryError(f"no model is registered as {name!r} in {redact(tracking_uri())}; {hint}")
    wanted = f"version {version}" if version else f"alias {alias!r}"
    aliases = ", ".join(f"{key} -> {value}" for key, value in sorted(registered.aliases.items())) or "none"
    versions = ", ".join(sorted(registered.versions, key=int))
    raise RegistryError(f"{name} has no {wanted}; its versions: {versions}; its aliases: {aliases}")


def known_names() -> list[str]:
    """Return the names of all registered models of a sqlite store; none for other stores (it only serves hints)."""
    file = sqlite_file(tracking_uri())
    if not file or not file.exists():
        return []
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
    try:
        return [row[0] for row in connection.execute("SELECT name FROM registered_models ORDER BY name")]
    except sqlite3.Error:
        return []
    finally:
        connection.close()


def fetch(version: Version, path: str = MODEL_FILE) -> Path:
    """Return a local path of one file of the version, after checking it against its sha256 tag.

    Files of a remote store are downloaded once into .darkroom/models/ of the repository.

    Raises:
        RegistryError: the file is gone, or its content is not what was registered.
    """
    local = _local(version.location)
    file = local / path if local else _download(version, path)
    if not file.is_file():
        raise RegistryError(
            f"{version.name} version {version.version}: {file} is gone; restore it, or move the alias away from this "
            "version with `darkroom rollback`"
        )
    expected, found = version.tags.get(f"sha256/{path}"), sha256_of(file)
    if expected and found != expected:
        raise RegistryError(
            f"{version.name} version {version.version}: {file} has sha256 {found[:12]}..., registered was "
            f"{expected[:12]}...; it was changed after registration and is not loaded"
        )
    return file


def load(version: Version) -> Any:
    """Return the version's own Package: its model.onnx, read by the package.py that was registered with it.

    Raises:
        RegistryError: a file is gone or changed, or the model cannot be loaded.
    """
    model, code = fetch(version), fetch(version, PACKAGE_FILE)
    try:
        return _import_file(code).Package.load(model)
    except Exception as error:  # whatever the registered code raises
        message = f"{version.name} version {version.version} cannot be loaded: {type(error).__name__}: {error}"
        raise RegistryError(message) from error


def _read_sqlite(file: Path, name: str) -> Registered:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=20)
    try:
        with connection:
            tags: dict[str, dict[str, str]] = {}
            query = "SELECT version, key, value FROM model_version_tags WHERE workspace = 'default' AND name = ?"
            for number, key, value in connection.execute(query, (name,)):
                tags.setdefault(str(number), {})[key] = value
            query = (
                "SELECT version, run_id, COALESCE(storage_location, source) FROM model_versions "
                "WHERE workspace = 'default' AND name = ? AND current_stage != 'Deleted_Internal' ORDER BY version"
            )
            versions = {
                str(number): Version(name, str(number), run_id, location, tags.get(str(number), {}))
                for number, run_id, location in connection.execute(query, (name,))
            }
            query = "SELECT alias, version FROM registered_model_aliases WHERE workspace = 'default' AND name = ?"
            aliases = {alias: str(number) for alias, number in connection.execute(query, (name,))}
            query = "SELECT key, value FROM registered_model_tags WHERE workspace = 'default' AND name = ?"
            return Registered(name, versions, aliases, dict(connection.execute(query, (name,)).fetchall()))
    finally:
        connection.close()


def _read_client(name: str) -> Registered:
    opened = client()
    with store_errors(tracking_uri()):
        model = existing(lambda: opened.get_registered_model(name))
        if model is None:
            return Registered(name)
        found, token = [], None
        while page := opened.search_model_versions(f"name='{name}'", page_token=token):
            found += page
            if not (token := page.token):
                break
        versions = {
            str(entry.version): Version(
                name,
                str(entry.version),
                entry.run_id or None,
                opened.get_model_version_download_uri(name, entry.version),
                dict(entry.tags),
            )
            for entry in found
        }
        aliases = {alias: str(number) for alias, number in model.aliases.items()}
        return Registered(name, versions, aliases, dict(model.tags))


def _local(location: str) -> Path | None:
    """Return the folder of a file:// URI or plain path, None for remote storage."""
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path)) if parts.scheme else Path(location)
    return None


def _download(version: Version, path: str) -> Path:
    folder = repository_root() / ".darkroom" / "models" / version.name / version.version
    target = folder / path
    if target.is_file() and version.tags.get(f"sha256/{path}") == sha256_of(target):
        return target
    client()
    target.parent.mkdir(parents=True, exist_ok=True)
    with store_errors(tracking_uri()), tempfile.TemporaryDirectory(dir=folder) as scratch:
        uri = f"{version.location.rstrip('/')}/{path}"
        download(uri, scratch).replace(target)
    return target


def _import_file(path: Path) -> ModuleType:
    """Import a Python file under a name of its own: two versions in one process must not share their code."""
    name = f"_darkroom_package_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
