import hashlib
import os
import re
import threading
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.errors import DataError
from darkroom.monitoring import measures
from darkroom.monitoring.log import ADDED, PredictionLog, read

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(number, *, at=NOON):
    return {
        "id": hashlib.sha256(bytes([number])).hexdigest(),
        "time": at + timedelta(seconds=number),
        "version": "3",
        "label": "cat",
        "confidence": 0.75,
        "familiarity": 0.5,
        "brightness": 0.5,
        "contrast": 0.25,
        "sharpness": 100.0,
        "width": 640,
        "height": 480,
        "request_id": "ab12",
        "position": 0,
    }


def test_what_was_appended_is_read_back_oldest_first(tmp_path):
    with PredictionLog(tmp_path / "log") as log:
        log.append([row(2), row(0)])
        log.append(iter([row(1)]))
    assert read(tmp_path / "log").to_pylist() == [row(0), row(1), row(2)]


def test_files_are_named_by_time_process_and_number(tmp_path):
    with PredictionLog(tmp_path) as log:
        log.flush()
        for number in range(2):
            log.append([row(number)])
            log.flush()
        log.flush()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [re.sub(r"^\d{8}T\d{6}\.\d{6}Z", "TIME", name) for name in names] == [
        f"TIME-{os.getpid()}-{number}.parquet" for number in range(2)
    ]


def test_a_file_is_written_when_the_rows_are_many_or_old(tmp_path):
    many = PredictionLog(tmp_path / "many", max_rows=2)
    many.append([row(0)])
    assert not (tmp_path / "many").exists()
    many.append([row(1)])
    assert read(tmp_path / "many").num_rows == 2
    old = PredictionLog(tmp_path / "old", max_seconds=0)
    old.append([row(0)])
    assert read(tmp_path / "old").num_rows == 1


def test_threads_that_share_a_log_lose_no_row(tmp_path):
    log = PredictionLog(tmp_path, max_rows=7)

    def append(first):
        for number in range(first, first + 50):
            log.append([row(number)])

    threads = [threading.Thread(target=append, args=(first,)) for first in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert [one["time"] for one in read(tmp_path).to_pylist()] == [row(number)["time"] for number in range(200)]


def test_a_window_begins_with_since_and_ends_before_until(tmp_path):
    with PredictionLog(tmp_path) as log:
        log.append(row(number) for number in range(5))
    inside = read(tmp_path, row(1)["time"], row(3)["time"])
    assert inside.to_pylist() == [row(1), row(2)]
    assert read(tmp_path, since=row(4)["time"]).num_rows == 1
    assert read(tmp_path, until=row(0)["time"]).num_rows == 0


def test_files_written_before_the_window_are_not_opened(tmp_path):
    (tmp_path / "20250101T000000.000000Z-1-0.parquet").write_bytes(b"nothing of ours")
    assert read(tmp_path, since=NOON).num_rows == 0
    with pytest.raises(DataError, match=r"20250101T\S+ is not a file of a prediction log \(.*\); remove it"):
        read(tmp_path)


def test_files_of_earlier_releases_are_read_beside_newer_ones(tmp_path):
    with PredictionLog(tmp_path) as log:
        log.append([row(0)])
        log.flush()
        (file,) = tmp_path.glob("*.parquet")
        pq.write_table(pq.read_table(file).drop_columns(list(ADDED)), file)
        log.append([row(1)])
    assert read(tmp_path).to_pylist() == [{**row(0), **dict.fromkeys(ADDED)}, row(1)]


def test_a_file_that_is_being_written_is_not_read(tmp_path):
    (tmp_path / ".0123abcd-20260101T000000.000000Z-1-0.parquet").write_bytes(b"half")
    assert read(tmp_path).num_rows == 0


def test_a_wrong_folder_and_a_foreign_parquet_file_are_named(tmp_path):
    with pytest.raises(DataError, match=r"log: no such directory; --log of `darkroom batch`"):
        read(tmp_path / "log")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "20260101T000000.000000Z-1-0.parquet")
    with pytest.raises(DataError, match=r"-1-0.parquet is not a file of a prediction log \(.*\); remove it"):
        read(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "index.parquet")
    with pytest.raises(DataError, match=r"index.parquet is not a file of a prediction log"):
        read(tmp_path, since=NOON)


def test_a_disk_that_refuses_is_named_and_the_rows_are_given_up(tmp_path):
    (tmp_path / "log").write_text("a file where the directory should be")
    log = PredictionLog(tmp_path / "log")
    log.append([row(0)])
    with pytest.raises(DataError, match=r"\.parquet: cannot be written: File exists; fix that and run again"):
        log.flush()
    log.flush()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_measures_follow_the_picture(channels):
    rng = np.random.default_rng(0)
    image = rng.integers(60, 180, (32, 24, channels), np.uint8)
    plain = measures.features(image)
    assert plain["brightness"] == pytest.approx(image.mean() / 255, abs=1e-6)
    assert plain["contrast"] == pytest.approx(image.std() / 255, abs=1e-6)
    grey = image if channels == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert plain["sharpness"] == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var(), rel=1e-5)
    assert measures.features(image // 2)["brightness"] == pytest.approx(plain["brightness"] / 2, abs=2e-3)
    blurred = cv2.blur(image, (3, 3)).reshape(image.shape)
    assert measures.features(blurred)["sharpness"] < plain["sharpness"] / 5
    flat = measures.features(np.full_like(image, 255))
    assert flat == {"brightness": 1, "contrast": 0, "sharpness": 0}
