"""Where the studies of this repository are kept, and which one each candidate's last tuning is in."""

import json
import os
from pathlib import Path
from typing import Any

from darkroom.errors import DataError
from darkroom.files import write_text
from darkroom.repository import repository_root

STORAGE = "DARKROOM_TUNING_STORAGE"  # environment variable: a URL with a password does not belong into params.yaml


def storage_of(setting: str | None, *, study: str) -> str:
    """Return where a study is kept: tune.storage, else what the environment says, else a journal file in .darkroom."""
    return setting or os.environ.get(STORAGE) or str(_folder() / f"{study}.journal")


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
        raise DataError(f"{candidate!r} was not tuned here yet; set tune.trials above 0 and run `dvc repro`") from None


def _folder() -> Path:
    return repository_root() / ".darkroom" / "tuning"
