"""The storage of this repository's studies, and the study of each candidate's last tuning."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from darkroom.errors import DataError, ParamsError
from darkroom.files.writing import write_text
from darkroom.project.repository import repository_root
from darkroom.project.text import redact

STORAGE = "DARKROOM_TUNING_STORAGE"  # environment variable; a URL with a password does not belong in params.yaml


def storage_of(setting: str | None, *, study: str) -> str:
    """Return the storage of a study: tune.storage, else the environment variable, else a journal file in .darkroom."""
    return setting or os.environ.get(STORAGE) or str(_folder() / f"{study}.journal")


def check_storage(storage: str) -> None:
    """Check that a storage is a URL without a password, which DVC and git would keep.

    Raises:
        ParamsError: it is not.
    """
    try:
        parts = urlsplit(storage)
        has_password = parts.password is not None or "password=" in parts.query
    except ValueError:
        has_password = True  # the end of the password is unknown
    if has_password:
        raise ParamsError(
            f"storage is {redact(storage)}, which contains a password; passwords do not belong in params.yaml. Set it "
            "to null, "
            f"and the environment variable {STORAGE} to the URL"
        )
    if not parts.scheme or "://" not in storage:
        raise ParamsError(
            f"storage is {storage!r}; expected null, the URL of a database such as postgresql://host/name, or "
            "grpc://host:port"
        )


def point_at(candidate: str, *, study: str, n_trials: int, values: Mapping[str, Any] | None = None) -> None:
    """Record the study of a candidate's tuning, and its planned number of trials.

    Args:
        values: chosen by it, by dotted key of train; None: keep those of the previous tuning.
    """
    known = _read(candidate).get("values", {}) if values is None else dict(values)
    _write(candidate, {"study": study, "trials": n_trials, "values": known})


def pointed_at(candidate: str) -> dict[str, Any]:
    """Return {study, trials, values} of a candidate's last tuning.

    Raises:
        DataError: it was never tuned here.
    """
    if found := _read(candidate):
        return found
    tuned = _tuned()
    others = f"; tuned: {', '.join(tuned)}" if tuned else ""
    raise DataError(f"{candidate!r} has not been tuned here yet; set tune.trials above 0 and run `dvc repro`{others}")


def last_tuned() -> str:
    """Return the candidate that is being tuned, or was last.

    Raises:
        DataError: none was tuned here.
    """
    if tuned := _tuned():
        return tuned[-1]
    raise DataError("no candidate has been tuned here yet; set tune.trials above 0 and run `dvc repro`")


def _tuned() -> list[str]:
    """Return all candidates that were tuned, the last one at the end."""
    files = sorted(_folder().glob("[!.]*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [file.stem for file in files]


def drop_values(candidate: str) -> dict[str, Any]:
    """Return the result of pointed_at() and delete the values; {} if there are none."""
    found = _read(candidate)
    if not found.get("values"):
        return {}
    _write(candidate, {**found, "values": {}})
    return found


def _read(candidate: str) -> dict[str, Any]:
    try:
        return dict(json.loads((_folder() / f"{candidate}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write(candidate: str, said: Mapping[str, Any]) -> None:
    write_text(_folder() / f"{candidate}.json", json.dumps(said) + "\n")


def _folder() -> Path:
    return repository_root() / ".darkroom" / "tuning"
