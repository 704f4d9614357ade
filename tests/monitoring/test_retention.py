import os
import time
from pathlib import Path

import pytest

from darkroom.monitoring.feedback import FOLDER
from darkroom.monitoring.retention import Retention

DAY = 86400.0
UNBOUNDED = float("inf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files of a log of 1,000 bytes, true labels, a half-written file and what is nobody's business."""
    names = [f"2026010{days}T000000.000000Z-7-0.parquet" for days in range(1, 5)]
    names += [f"{FOLDER}/20260101T000000.000000Z-7-ab.jsonl", ".0123abcd-20260101T000000.000000Z-7-1.parquet"]
    names += ["notes.parquet", "images/ab/abcd"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        days = 5 - int(path.name[7]) if path.name.startswith("2026010") else 4
        os.utime(path, (time.time() - days * DAY,) * 2)
    return tmp_path


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_of_a_log_and_labels_go_after_their_days(folder: Path) -> None:
    Retention(2.5 * DAY, UNBOUNDED).clean(folder)
    assert names_in(folder) == {
        "20260103T000000.000000Z-7-0.parquet",
        "20260104T000000.000000Z-7-0.parquet",
        "notes.parquet",
        "images/ab/abcd",
    }


def test_the_oldest_files_of_a_log_go_and_no_labels(folder: Path) -> None:
    before = names_in(folder)
    Retention(UNBOUNDED, 2500).clean(folder)
    gone = {"20260101T000000.000000Z-7-0.parquet", "20260102T000000.000000Z-7-0.parquet"}
    assert names_in(folder) == before - gone - {".0123abcd-20260101T000000.000000Z-7-1.parquet"}


def test_without_a_log_there_is_nothing_to_clean(tmp_path: Path) -> None:
    Retention(DAY, 1000).clean(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_removed_is_reported_and_the_rest_goes(tmp_path: Path) -> None:
    stuck, *others = [tmp_path / f"2020010{day}T000000.000000Z-1-0.parquet" for day in (1, 2, 3)]
    stuck.mkdir()  # no right to remove a file fails alike, but not for root
    for path in others:
        path.write_bytes(b"")
    for path in (stuck, *others):
        os.utime(path, (0, 0))
    with pytest.raises(OSError, match=stuck.name):
        Retention(DAY, UNBOUNDED).clean(tmp_path)
    assert list(tmp_path.iterdir()) == [stuck]
