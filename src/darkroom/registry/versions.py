"""Read registered versions: names, aliases, tags, history and model files.

A sqlite store is read directly (0.01 s), because the MLflow client takes 5 s to import, which would be most of the time
of a no-op `dvc repro` or of the first answer of `darkroom predict`. Other stores, and sqlite files with other tables
than those of the pinned MLflow, are read through the client.
"""

import functools
import hashlib
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from darkroom.errors import RegistryError
from darkroom.files.writing import sha256_of
from darkroom.project.repository import repository_root
from darkroom.project.text import did_you_mean, redact
from darkroom.registry.snapshot import (
    DOWNLOAD_NOTE,
    IMPORTED_FILES,
    MODEL_FILE,
    PACKAGE_FILE,
    SHA256,
    Registered,
    Version,
)
from darkroom.tracking.artifacts import here, is_gone, local_folder
from darkroom.tracking.refusals import refusal
from darkroom.tracking.store import (
    BUSY_SECONDS,
    client,
    download,
    existing,
    registry_uri,
    sqlite_file,
    store_errors,
    tracking_uri,
    variable_of,
)

__all__ = ["Registered", "Version", "damage", "fetch", "find", "known_names", "load", "local_folder", "read"]


def read(name: str) -> Registered:
    """Return the registered model as it is now.

    Raises:
        RegistryError: the store does not answer.
    """
    if file := sqlite_file(registry_uri()):
        if not file.exists():
            return Registered(name)
        try:
            return _read_sqlite(file, name)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                # The client would only wait for the same time again.
                raise refusal(registry_uri(), error, variable=variable_of(registry_uri())) from error
            # No tables yet, tables of another MLflow, or not a database: the client handles or reports it.
    return _read_client(name)


def find(name: str, *, alias: str | None = None, version: str | None = None) -> Version:
    """Return one version by its number or its alias.

    Raises:
        RegistryError: there is no such version.
    """
    registered = read(name)
    found = registered.versions.get(version) if version else registered.under(alias or "")
    if found:
        return found
    if not registered.versions:
        hint = "; run `dvc repro` to train and register one"
        if name in (known := known_names()):
            raise RegistryError(f"{name!r} has no versions in {redact(registry_uri())}{hint}")
        hint = did_you_mean(name, known) or hint
        raise RegistryError(f"no model is registered as {name!r} in {redact(registry_uri())}{hint}")
    wanted = f"version {version}" if version else f"alias {alias!r}"
    aliases = ", ".join(f"{key} -> {value}" for key, value in sorted(registered.aliases.items())) or "none"
    versions = ", ".join(sorted(registered.versions, key=int))
    raise RegistryError(f"{name} has no {wanted}; its versions: {versions}; its aliases: {aliases}")


def known_names() -> list[str]:
    """Return the names of all registered models of a sqlite store, for hints; none for other stores."""
    file = sqlite_file(registry_uri())
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
    """Return a local path of a file of the version, after checking it against its sha256 tag.

    Files of a remote store are downloaded once into .darkroom/models/ of the repository.

    Raises:
        RegistryError: the file is gone or was changed.
    """
    local = local_folder(version.location)
    file = local / path if local else _download(version, path)
    if not file.is_file():
        raise RegistryError(
            f"{version.name} version {version.version}: {file} is missing; restore it, or move the alias off this "
            "version with `darkroom rollback`"
        )
    expected, found = version.tags.get(f"{SHA256}{path}"), sha256_of(file)
    if expected is None:
        raise RegistryError(
            f"{version.name} version {version.version} has no tag {SHA256}{path}: it was not registered by darkroom, "
            "or the tag was deleted; it is not loaded"
        )
    if found != expected:
        raise RegistryError(
            f"{version.name} version {version.version}: {file} has sha256 {found[:12]}..., registered with "
            f"{expected[:12]}...; it was changed after registration and is not loaded"
        )
    return file


def load(version: Version, **settings: Any) -> Any:
    """Return the version's own Package: its model.onnx, loaded by the package.py that was registered with it.

    Args:
        settings: of Package.load: threads, max_pixels.

    Raises:
        RegistryError: a file is gone or changed, or the model cannot be loaded.
    """
    imported = [path for path in IMPORTED_FILES if f"{SHA256}{path}" in version.tags]
    model, *code = (fetch(version, path) for path in (MODEL_FILE, *imported, PACKAGE_FILE))
    try:
        return _import_files(code).Package.load(model, **settings)
    except Exception as error:  # anything that the registered code raises
        message = f"{version.name} version {version.version} cannot be loaded: {type(error).__name__}: {error}"
        raise RegistryError(message) from error


def damage(version: Version) -> list[str]:
    """Return a sentence for each file of the version that is missing, changed, or was added after registration.

    All files are checked, including those that only MLflow's own loader reads; a remote version is downloaded. Only
    __pycache__ is ignored, which Python writes beside modules that MLflow imports from a local store.

    Raises:
        RegistryError: the store does not answer.
    """
    local = local_folder(version.location)
    if local and not local.is_dir():
        return [f"its directory {local} is missing"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = local or _download_all(version, scratch)
        if folder is None:
            return [f"its files {version.location} are missing"]
        files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
        found = {path.relative_to(folder).as_posix() for path in files if path.name != DOWNLOAD_NOTE}
        missing, changed = _missing_and_changed(version, folder)
        return [
            *(f"{path} is missing" for path in missing),
            *(f"{path} was added after registration" for path in sorted(found - _sums(version).keys())),
            *(f"{path} was changed after registration" for path in changed),
        ]


def lost_files(version: Version) -> dict[str, Path]:
    """Return the missing or changed files of a version on this disk, with the paths where they belong.

    A version in remote storage has none, because it would have to be downloaded.
    """
    if (folder := local_folder(version.location)) is None:
        return {}
    missing, changed = _missing_and_changed(version, folder)
    return {path: folder / path for path in sorted([*missing, *changed])}


def place_hint(version: Version) -> str | None:
    """Return advice if the directory of the experiment's models does not exist on this machine, else None."""
    if is_gone(version.location.rpartition("/models/")[0]):
        return "mount it on this machine at the same path, or restore it from a backup"
    return None


def _missing_and_changed(version: Version, folder: Path) -> tuple[list[str], list[str]]:
    """Return the registered files that are missing in the directory, and those with other content."""
    sums = sorted(_sums(version).items())
    missing = [path for path, _ in sums if not (folder / path).is_file()]
    changed = [path for path, sha256 in sums if path not in missing and sha256_of(folder / path) != sha256]
    return missing, changed


def _sums(version: Version) -> dict[str, str]:
    """Return the sha256 of every registered file."""
    sums = {key.removeprefix(SHA256): value for key, value in version.tags.items() if key.startswith(SHA256)}
    sums.pop(DOWNLOAD_NOTE, None)
    return sums


def _read_sqlite(file: Path, name: str) -> Registered:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    try:
        with connection:
            connection.execute("BEGIN")  # a consistent snapshot; Python begins no transaction before a SELECT
            tags: dict[str, dict[str, str]] = {}
            query = "SELECT version, key, value FROM model_version_tags WHERE workspace = 'default' AND name = ?"
            for number, key, value in connection.execute(query, (name,)):
                tags.setdefault(str(number), {})[key] = value
            query = (
                "SELECT version, run_id, COALESCE(storage_location, source) FROM model_versions "
                "WHERE workspace = 'default' AND name = ? AND current_stage != 'Deleted_Internal' ORDER BY version"
            )
            versions = {
                str(number): Version(name, str(number), run_id, here(location), tags.get(str(number), {}))
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
    with store_errors(registry_uri()):
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
                location_of(registry_uri(), name, str(entry.version), entry.creation_timestamp),
                dict(entry.tags),
            )
            for entry in found
        }
        aliases = {alias: str(number) for alias, number in model.aliases.items()}
        return Registered(name, versions, aliases, dict(model.tags))


@functools.lru_cache(maxsize=4096)
def location_of(uri: str, name: str, version: str, created: int) -> str:
    """Return the location of a version's files; cached, because a server needs one request for each version.

    Args:
        uri, created: distinguish versions of the same number, of another store or of a name that was deleted.
    """
    del uri, created
    return str(client().get_model_version_download_uri(name, version))


def _download(version: Version, path: str) -> Path:
    folder = repository_root() / ".darkroom" / "models" / version.name / version.version
    target = folder / path
    if target.is_file() and version.tags.get(f"{SHA256}{path}") == sha256_of(target):
        return target
    client()
    target.parent.mkdir(parents=True, exist_ok=True)
    with store_errors(tracking_uri()), tempfile.TemporaryDirectory(dir=folder) as scratch:
        uri = f"{version.location.rstrip('/')}/{path}"
        download(uri, scratch).replace(target)
    return target


def _download_all(version: Version, folder: str) -> Path | None:
    """Download the files of a remote version and return their directory, None if there are none."""
    client()
    try:
        with store_errors(tracking_uri()):
            return existing(lambda: download(version.location, folder))
    except RegistryError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _import_files(paths: Sequence[Path]) -> ModuleType:
    """Return the last of these Python files as a package that contains the others, each importing those before it.

    Versions with other content do not share it. Source is executed, never a __pycache__ beside it, which has no
    checksum.
    """
    sources = [path.read_bytes() for path in paths]
    name = f"_darkroom_package_{hashlib.sha256(b''.join(sources)).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    package = ModuleType(name)
    package.__path__ = []  # a package, so that `from .images import` works
    sys.modules[name] = package
    try:
        for path, source in zip(paths, sources, strict=True):
            module = package if path == paths[-1] else ModuleType(f"{name}.{path.stem}")
            module.__package__, module.__file__ = name, str(path)
            sys.modules[module.__name__] = module
            exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102  (this is what importing does)
    except BaseException:
        del sys.modules[name]
        raise
    return package
