"""The storage of this repository's studies, and the study of each candidate's last tuning."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from darkroom.errors import DataError, ParamsError
from darkroom.files.writing import write_text
from darkroom.project.repository import repository_root
from darkroom.project.text import redact

STORAGE = "DARKROOM_TUNING_STORAGE"  # environment variable: a URL with a password does not belong into params.yaml


def storage_of(setting: str | None, *, study: str) -> str:
    """Return where a study is kept: tune.storage, else what the environment says, else a journal file in .darkroom."""
    return setting or os.environ.get(STORAGE) or str(_folder() / f"{study}.journal")


def check_storage(storage: str) -> None:
    """Refuse what is not a URL, and a password, which DVC and git would keep.

    Raises:
        ParamsError: says what to write.
    """
    try:
        parts = urlsplit(storage)
        has_password = parts.password is not None or "password=" in parts.query
    except ValueError:
        has_password = True  # it cannot be told where it ends
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


def point_at(candidate: str, *, study: str, n_trials: int) -> None:
    """Remember the study of a candidate's tuning that begins, and how many trials it is to have."""
    write_text(_folder() / f"{candidate}.json", json.dumps({"study": study, "trials": n_trials}) + "\n")


def pointed_at(candidate: str) -> dict[str, Any]:
    """Return {study, trials} of a candidate's last tuning.

    Raises:
        DataError: it was never tuned here.
    """
    path = _folder() / f"{candidate}.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise DataError(
            f"{candidate!r} has not been tuned here yet; set tune.trials above 0 and run `dvc repro`"
        ) from None


def _folder() -> Path:
    return repository_root() / ".darkroom" / "tuning"
