import threading

import cv2
import numpy as np
import pytest

from darkroom.monitoring import log
from darkroom.monitoring.kept_images import Keeping, stored_images
from darkroom.serving.batching import Answered
from darkroom.serving.recorder import Recorder
from tests.support.served import eventually

PIXELS = np.full((4, 4, 1), 51, np.uint8)
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()
ANSWERED = Answered(PNG, PIXELS, {"label": "cat", "probability": 0.75}, "ab12", 0)


@pytest.fixture
def said():
    return []


@pytest.fixture
def say(said):
    return lambda *line: said.append(line)


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


def test_an_odd_picture_is_recorded_without_its_size(tmp_path, say, said):
    recorder = Recorder(log.PredictionLog(tmp_path / "log"), log=say)
    recorder.record("1", [ANSWERED._replace(data=b"a format of its own", position=1), ANSWERED])
    recorder.close()
    rows = log.read(tmp_path / "log").to_pylist()
    assert sorted(((row["width"], row["height"]) for row in rows), key=str) == [(4, 4), (None, None)]
    assert [row["brightness"] for row in rows] == pytest.approx([0.2, 0.2])
    assert sorted((row["request_id"], row["position"]) for row in rows) == [("ab12", 0), ("ab12", 1)]
    assert said == []


def test_a_log_that_fails_loses_these_rows_and_takes_the_next(tmp_path, say, said):
    recorder = Recorder(Broken(tmp_path / "log"), log=say)
    recorder.record("1", [ANSWERED])
    eventually(lambda: said)
    recorder.record("2", [ANSWERED])
    recorder.close()
    assert [row["version"] for row in log.read(tmp_path / "log").to_pylist()] == ["2"]
    assert said == [("log_not_written", "out of handles")]


def test_rows_that_the_disk_refuses_are_dropped_and_counted(tmp_path, say, said):
    target = Stuck(tmp_path / "log")
    recorder = Recorder(target, log=say, max_batches=2)
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


def test_images_are_kept_by_content_where_that_is_asked_for(tmp_path, say, said):
    recorder = Recorder(log.PredictionLog(tmp_path / "log"), log=say, keeping=Keeping(1.0, 3600, 1 << 20))
    recorder.record("1", [ANSWERED, ANSWERED, ANSWERED._replace(data=b"another format")])
    recorder.close()
    kept = stored_images(tmp_path / "log")
    assert {path.read_bytes() for path in kept.values()} == {PNG, b"another format"}
    assert kept.keys() == {row["id"] for row in log.read(tmp_path / "log").to_pylist()}
    assert said == []


def test_images_that_wait_for_the_disk_are_bounded_and_rows_stay(tmp_path, say, said):
    target = Stuck(tmp_path / "log")
    target.begun.clear()
    target.may_go.clear()
    recorder = Recorder(target, log=say, keeping=Keeping(1.0, 3600, 1 << 20), max_image_bytes=100)
    recorder.record("1", [ANSWERED])
    assert target.begun.wait(60)
    for number in range(5):
        recorder.record("1", [ANSWERED._replace(data=bytes([number] * 40))])
    target.may_go.set()
    recorder.close()
    assert log.read(tmp_path / "log").num_rows == 6
    assert len(stored_images(tmp_path / "log")) == 3
    assert said == [
        ("log_images_dropped", "the log cannot keep up with the predictions; images are dropped from it"),
        ("log_images_dropped", "3 images were dropped from the log"),
    ]
