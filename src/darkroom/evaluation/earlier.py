"""Reports of earlier stages for the page: trials, samples, augmented copies, duplicates and rejected files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from darkroom.evaluation.candidates import data_uri
from darkroom.files.writing import read_csv

LARGE_BYTES = 200_000  # of a PNG; larger ones are embedded as JPEG, at a fifth of the size


@dataclass(frozen=True)
class Search:
    """The search for one candidate's settings.

    Attributes:
        trials: lines of trials.csv.
        reason: of the choice.
        values: chosen by tuning, by dotted key of train; {}: those of params.yaml were kept.
    """

    trials: Sequence[Mapping[str, str]]
    reason: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Earlier:
    """Reports of earlier stages; missing ones are None or empty.

    Attributes:
        searches: by candidate.
        samples, augmented: pictures as data: URIs.
        duplicates, rejected: lines of the lists of preprocess.
    """

    searches: Mapping[str, Search]
    samples: str | None
    augmented: str | None
    duplicates: Sequence[Mapping[str, str]]
    rejected: Sequence[Mapping[str, str]]


def read_earlier(*, tuning: Path, data: Path, augment: Path, candidates: Sequence[str]) -> Earlier:
    """Read the report directories of tune, preprocess and augment."""
    found = {name: _search(tuning / name) for name in candidates}
    return Earlier(
        searches={name: search for name, search in found.items() if search},
        samples=_picture(data / "samples.png"),
        augmented=_picture(augment / "preview.png"),
        duplicates=_lines(data / "duplicates.csv"),
        rejected=_lines(data / "rejected.csv"),
    )


def _search(folder: Path) -> Search | None:
    try:
        said = json.loads((folder / "chosen.json").read_text(encoding="utf-8"))
        return Search(_lines(folder / "trials.csv"), str(said["reason"]), dict(said["values"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(path: Path) -> list[dict[str, str]]:
    return read_csv(path) if path.is_file() else []


def _picture(path: Path) -> str | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    if len(content) <= LARGE_BYTES:
        return data_uri(content)
    return data_uri(cv2.imencode(".jpg", cv2.imread(str(path)))[1].tobytes(), kind="jpeg")
