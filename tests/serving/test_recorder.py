import hashlib
import os
import threading
from collections import Counter

import pytest

from darkroom.monitoring import log
from darkroom.monitoring.kept_images import Keeping, stored_images
from darkroom.monitoring.retention import Retention
from darkroom.serving.recorder import Answered, Recorder
from tests.support.served import eventually

MEASURES = {"width": 4, "height": 4, "brightness": 0.2, "contrast": 0.0, "sharpness": 0.0}


def answered(data, position=0, familiarity=None, **measures):
    image = hashlib.sha256(data).hexdigest()
    return Answered(data, image, "cat", 0.75, familiarity, MEASURES | measures, "ab12", position)


ANSWERED = answered(b"a file")


@pytest.fixture
def said():
    return []


@pytest.fixture
def dropped():
    return Counter()


@pytest.fixture
def hooks(said, dropped):
    return {"log": lambda *line: said.append(line), "dropped": lambda what, n: dropped.update({what: n})}


class Stuck(log.PredictionLog):
    """A log whose disk does not answer until it is let go."""

    begun, may_go = threading.Event(), threading.Event()

    def append(self, rows):
        self.begun.set()
        assert self.may_go.wait(60)
        super().append(rows)


class Broken(log.PredictionLog):
    """A log that fails once, with what is no error of ours."""

    def append(self, rows):
        if not self.folder.exists():
            self.folder.mkdir()
            raise RuntimeError("out of handles")
        super().append(rows)


def test_an_odd_picture_is_recorded_without_its_size(tmp_path, hooks, said):
    recorder = Recorder(log.PredictionLog(tmp_path / "log"), **hooks)
    recorder.record("1", [answered(b"a format of its own", 1, 0.25, width=None, height=None), ANSWERED])
    recorder.close()
    rows = log.read(tmp_path / "log").to_pylist()
    assert sorted(((row["width"], row["height"]) for row in rows), key=str) == [(4, 4), (None, None)]
    assert [row["brightness"] for row in rows] == pytest.approx([0.2, 0.2])
    assert sorted((row["request_id"], row["position"]) for row in rows) == [("ab12", 0), ("ab12", 1)]
    assert sorted((row["position"], row["familiarity"]) for row in rows) == [(0, None), (1, 0.25)]
    assert said == []


def test_a_log_that_fails_loses_these_rows_and_takes_the_next(tmp_path, hooks, said, dropped):
    recorder = Recorder(Broken(tmp_path / "log"), **hooks)
    recorder.record("1", [ANSWERED])
    eventually(lambda: said)
    recorder.record("2", [ANSWERED])
    recorder.close()
    assert [row["version"] for row in log.read(tmp_path / "log").to_pylist()] == ["2"]
    more = "until that is over, rows and images are lost, and counted in /metrics"
    assert said == [("log_not_written", f"out of handles; {more}"), ("log_written", "the log is written again")]
    assert dropped == {"rows": 1}


def test_rows_that_the_disk_refuses_are_dropped_and_counted(tmp_path, hooks, said, dropped):
    target = Stuck(tmp_path / "log")
    recorder = Recorder(target, **hooks, max_batches=2)
    recorder.record("1", [ANSWERED])
    assert target.begun.wait(60)
    for _ in range(5):
        recorder.record("1", [ANSWERED] * 2)
    assert len(said) == 1
    target.may_go.set()
    recorder.close()
    assert log.read(tmp_path / "log").num_rows == 5
    assert said == [
        ("log_rows_dropped", "the log cannot keep up with the predictions; rows are dropped from it"),
        ("log_rows_dropped", "6 rows were dropped from the log"),
    ]
    assert dropped == {"rows": 6}


def test_images_are_kept_by_content_if_requested(tmp_path, hooks, said, dropped):
    recorder = Recorder(log.PredictionLog(tmp_path / "log"), **hooks, keeping=Keeping(1.0, 3600, 1 << 20))
    recorder.record("1", [ANSWERED, ANSWERED, answered(b"another format")])
    recorder.close()
    kept = stored_images(tmp_path / "log")
    assert {path.read_bytes() for path in kept.values()} == {b"a file", b"another format"}
    assert kept.keys() == {row["id"] for row in log.read(tmp_path / "log").to_pylist()}
    assert said == []


def test_images_that_wait_for_the_disk_are_bounded_and_rows_stay(tmp_path, hooks, said, dropped):
    target = Stuck(tmp_path / "log")
    target.begun.clear()
    target.may_go.clear()
    recorder = Recorder(target, **hooks, keeping=Keeping(1.0, 3600, 1 << 20), max_image_bytes=100)
    recorder.record("1", [ANSWERED])
    assert target.begun.wait(60)
    for number in range(5):
        recorder.record("1", [answered(bytes([number] * 40))])
    target.may_go.set()
    recorder.close()
    assert log.read(tmp_path / "log").num_rows == 6
    assert len(stored_images(tmp_path / "log")) == 3
    assert said == [
        ("log_images_dropped", "the log cannot keep up with the predictions; images are dropped from it"),
        ("log_images_dropped", "3 images were dropped from the log"),
    ]
    assert dropped == {"images": 3}


def test_a_disk_that_fails_again_and_again_is_reported_once(tmp_path, hooks, said, dropped):
    folder = tmp_path / "log"
    folder.write_bytes(b"a file where a directory was")
    keeping = Keeping(1.0, 3600, 1 << 20)
    recorder = Recorder(log.PredictionLog(folder, max_seconds=0), **hooks, keeping=keeping)
    for _ in range(3):
        recorder.record("1", [ANSWERED] * 2)
    eventually(lambda: dropped["images"] == 3)
    folder.unlink()
    recorder.record("1", [ANSWERED])
    recorder.close()
    assert dropped == {"rows": 6, "images": 3}
    assert [event for event, _ in said] == ["log_not_written", "log_written"]
    assert log.read(folder).num_rows == 1


def test_the_log_is_cleaned_while_it_is_written(tmp_path, hooks):
    old = tmp_path / "log" / "20200101T000000.000000Z-1-0.parquet"
    old.parent.mkdir()
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    recorder = Recorder(log.PredictionLog(tmp_path / "log"), **hooks, retention=Retention(3600, float("inf")))
    recorder.record("1", [ANSWERED])
    recorder.close()
    assert not old.exists()
    assert log.read(tmp_path / "log").num_rows == 1


def test_old_files_that_cannot_be_removed_are_reported(tmp_path, hooks, said):
    old = tmp_path / "log" / "20200101T000000.000000Z-1-0.parquet"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    recorder = Recorder(log.PredictionLog(tmp_path / "log"), **hooks, retention=Retention(3600, float("inf")))
    recorder.record("1", [ANSWERED])
    recorder.close()
    ((event, message),) = said
    assert (event, "cannot be removed" in message, old.name in message) == ("log_not_cleaned", True, True)
