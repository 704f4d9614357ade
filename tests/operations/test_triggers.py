import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.errors import DataError
from darkroom.evaluation.metrics.classification import accuracy_interval
from darkroom.monitoring.accuracy import Accuracy
from darkroom.monitoring.acknowledgement import Acknowledgement
from darkroom.operations import triggers
from darkroom.registry.snapshot import Registered
from tests.support.registered import write_version

NOW = datetime(2026, 5, 20, 3, tzinfo=UTC)


def test_an_incomplete_or_missing_champion_is_a_reason_to_run(tmp_path):
    version = write_version(tmp_path / "model")
    registered = Registered("shades", {"3": version}, {"champion": "3"})
    assert triggers.lost_champion(registered) == triggers.lost_champion(Registered("shades")) == []
    (tmp_path / "model" / "artifacts" / "model.onnx").unlink()
    [trigger] = triggers.lost_champion(registered)
    assert trigger.fired
    assert trigger.reason == "Files of the champion, version 3, are missing or changed: artifacts/model.onnx."
    entry: dict[str, Any] = {
        "at": "2026-05-20T03:00:00+00:00",
        "who": "me",
        "alias": "champion",
        "from": None,
        "to": "3",
        "reasons": [],
    }
    gone = Registered("shades", {"3": version}, {}, {"history.000001": json.dumps(entry)})
    assert "shades: the champion, version 3, is no longer under the alias" in triggers.lost_champion(gone)[0].reason


KNOWN = {"cat/a.png": "1" * 64, "dog/b.png": "2" * 64}


def look(found, known, *, minimum=1, prepared=()):
    return triggers.new_images(found, known, frozenset(prepared), minimum=minimum)


def test_known_images_call_for_nothing():
    trigger = look(KNOWN, KNOWN)
    assert not trigger.fired
    assert trigger.reason == "No new images among the 2 in data/incoming."


def test_new_images_are_counted_per_class_by_content():
    trigger = look({**KNOWN, "cat/c.png": "3" * 64, "cat/d.png": "4" * 64, "dog/b.png": "5" * 64}, KNOWN)
    assert trigger.fired
    assert trigger.numbers == {"new": 3, "gone": 0, "minimum": 1, "new_per_class": {"cat": 2, "dog": 1}}
    assert trigger.reason.startswith("3 new images in data/incoming (cat 2, dog 1): at least retrain.min_new_images")


def test_images_that_are_missing_count_too():
    trigger = look({"cat/a.png": "1" * 64}, KNOWN)
    assert trigger.fired
    assert trigger.numbers["gone"] == 1


def test_too_few_new_images_wait_for_more():
    trigger = look({**KNOWN, "cat/c.png": "3" * 64}, KNOWN, minimum=10)
    assert not trigger.fired
    assert "fewer than retrain.min_new_images (10)" in trigger.reason


def test_what_a_repro_by_hand_prepared_is_not_new():
    assert not look(KNOWN, {}, prepared=KNOWN.values()).fired


def test_the_folder_of_new_images_is_read_as_preprocess_reads_it(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"a")
    (tmp_path / "cat" / "large.png").write_bytes(b"x" * 100)
    (tmp_path / "README.md").write_text("no image")
    (tmp_path / "cat.dvc").write_text("no image")
    found = triggers.incoming_images(tmp_path, max_image_bytes=50)
    assert set(found) == {"cat/a.png", "cat/large.png"}
    assert found["cat/a.png"] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert triggers.incoming_images(tmp_path / "absent", max_image_bytes=50) == {}


def test_the_prepared_images_are_known_by_their_ids(tmp_path):
    pq.write_table(pa.table({"id": ["1" * 64], "label": ["cat"]}), tmp_path / "index.parquet")
    assert triggers.prepared_ids(tmp_path) == frozenset({"1" * 64})
    assert triggers.prepared_ids(tmp_path / "absent") == frozenset()
    (tmp_path / "index.parquet").write_bytes(b"cut short")
    assert triggers.prepared_ids(tmp_path) == frozenset()


def test_a_source_is_compared_with_what_the_last_run_knew():
    assert not triggers.changed_folders({"pictures": "1"}, {"pictures": "1"}).fired
    assert not triggers.changed_folders({"pictures": "1"}, {}).fired, "a first look has nothing to compare with"
    trigger = triggers.changed_folders({"pictures": "2", "others": "1"}, {"pictures": "1", "others": "1"})
    assert trigger.fired
    assert trigger.reason == "Changed since the last run: pictures."


def test_a_stage_that_always_runs_is_no_reason():
    assert not triggers.changed_stages({"promote": ["always changed"]}).fired
    assert not triggers.changed_stages({}).fired


def test_a_changed_setting_file_or_command_is_a_reason():
    trigger = triggers.changed_stages(
        {
            "train@cnn": [{"changed deps": {"params.yaml": {"train.cnn.epochs": "modified"}, "src/a.py": "modified"}}],
            "promote": [{"changed deps": {"models": "modified"}}, "always changed"],
            "evaluate": [{"changed command": "modified"}],
        }
    )
    assert trigger.fired
    assert trigger.numbers["stages"] == {
        "train@cnn": ["train.cnn.epochs modified, src/a.py modified"],
        "promote": ["models modified"],
        "evaluate": ["changed command modified"],
    }
    assert trigger.reason.startswith(
        "dvc.lock is out of date: train@cnn: train.cnn.epochs modified, src/a.py modified;"
    )


def test_new_images_do_not_come_in_through_the_status_of_dvc():
    status = {
        "preprocess": [{"changed deps": {"data/incoming": "modified"}}],
        "data/incoming/cat.dvc": [{"changed outs": {"data/incoming/cat": "modified"}}],
    }
    assert not triggers.changed_stages(status).fired


def test_what_an_experiment_has_tried_is_no_reason_again():
    trigger = triggers.changed_stages({"train": [{"changed deps": {"src/a.py": "modified"}}]}, tried=True)
    assert not trigger.fired
    assert trigger.reason == "dvc.lock is out of date (train), but an experiment has already run these changes."


@pytest.mark.parametrize("changed", ["params.yaml", "src/a.py", "dvc.lock", "data/raw/b.bin"])
def test_another_value_under_the_same_status_is_another_state(tmp_path, changed):
    deps = {"params.yaml": {"train.cnn.epochs": "modified"}, "src/a.py": "modified", "data/raw": "modified"}
    status: dict[str, list[Any]] = {
        "train": [{"changed deps": deps}],
        "data/incoming/cat.dvc": [{"changed outs": {"data/incoming/cat": "x"}}],
    }
    for name in ("params.yaml", "src/a.py", "dvc.lock", "data/raw/b.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    before = triggers.behind(status, tmp_path)
    assert triggers.behind({**status, "promote": ["always changed"]}, tmp_path) == before
    (tmp_path / changed).write_text("another one")
    assert triggers.behind(status, tmp_path) != before


def test_what_called_for_an_unfinished_run_calls_for_the_next():
    left = triggers.unfinished({"started": "then", "who": "ann@night", "fired": ["forced"]})
    assert triggers.fired([left, triggers.changed_folders({}, {})]) == {"unfinished", "forced"}
    assert triggers.fired([triggers.unfinished({"started": "then", "who": "somebody"})]) == {"unfinished"}


def test_the_status_is_found_behind_warnings():
    assert triggers.parse_status('WARNING: old cache\n{"promote": ["always changed"]}\n') == {
        "promote": ["always changed"]
    }
    with pytest.raises(DataError, match="`dvc status --json` answered 'no lock'; run it by hand"):
        triggers.parse_status("no lock")


@pytest.mark.parametrize(("promoted", "trained", "fired"), [(40, None, True), (40, 3, False), (3, None, False)])
def test_an_old_champion_is_a_reason_unless_training_lost_since(promoted, trained, fired):
    trigger = triggers.champion_age(
        NOW - timedelta(days=promoted),
        NOW - timedelta(days=trained) if trained else None,
        now=NOW,
        limit=30.0,
    )
    assert trigger.fired is fired
    assert trigger.numbers["limit"] == 30.0
    assert "since the last promotion or training" in trigger.reason


def test_any_age_is_right_without_a_limit():
    assert not triggers.champion_age(NOW - timedelta(days=4000), None, now=NOW, limit=None).fired
    assert triggers.champion_age(None, None, now=NOW, limit=30.0).fired


@pytest.mark.parametrize(("drifted", "fired"), [(True, True), (False, False), (None, False)])
def test_drift_is_a_reason_where_it_is_certain(drifted, fired):
    checks = [{"name": "brightness", "drifted": drifted}, {"name": "size", "drifted": False}]
    report = {"drifted": drifted, "reasons": ["brightness has drifted."], "n_window": 500, "n_reference": 900}
    report["checks"] = checks
    trigger = triggers.drift(report)
    assert trigger.fired is fired
    assert trigger.numbers["n_window"] == 500
    assert trigger.numbers["alarms"] == (["brightness"] if drifted else [])


@pytest.mark.parametrize(
    ("n_correct", "n_labelled", "fired", "sentence"),
    [
        (85, 100, True, "85 of 100 labelled images, 85.0% (95 % interval 76.7% to 90.7%): less than"),
        (90, 100, False, "90 of 100 labelled images, 90.0% (95 % interval 82.6% to 94.5%): at least"),
        (9, 49, False, "49 labelled images of the champion: fewer than retrain.min_labelled_images (50)."),
    ],
)
def test_low_accuracy_is_a_reason_with_enough_labels(n_correct, n_labelled, fired, sentence):
    right = np.arange(n_labelled) < n_correct
    found = Accuracy("2", None, n_labelled, n_correct, n_correct / n_labelled, accuracy_interval(right))
    trigger = triggers.recent_accuracy(found, minimum=0.9, n_least=50)
    assert trigger.fired is fired
    assert sentence in trigger.reason
    assert not triggers.recent_accuracy(found, minimum=None, n_least=50).fired
    assert not triggers.recent_accuracy(None, minimum=0.9, n_least=50).fired


ACKNOWLEDGED = Acknowledgement(
    ["brightness", "size"], "2", "d1", "2026-05-01T00:00:00+00:00", "2026-05-31T00:00:00+00:00", "ann@desk", "new lamp"
)


@pytest.mark.parametrize(
    ("now", "champion", "data", "alarms", "why"),
    [
        (NOW, "2", "d1", ["brightness"], None),
        (NOW + timedelta(days=11), "2", "d1", ["size"], "it ended at 2026-05-31T00:00:00+00:00"),
        (NOW, "3", "d1", ["size"], "the champion was version 2 and is version 3"),
        (NOW, None, "d1", ["size"], "the champion was version 2 and is version none"),
        (NOW, "2", "d2", ["size"], "the training data have changed"),
        (NOW, "2", "d1", ["size", "label"], "it is about brightness, size, not label"),
    ],
)
def test_an_acknowledged_alarm_fires_again_when_it_lapses(now, champion, data, alarms, why):
    alarm = triggers.Trigger("drift", True, "brightness has drifted.", {"alarms": alarms})
    looked = triggers.acknowledged(alarm, ACKNOWLEDGED, champion=champion, data=data, now=now)
    assert looked.fired is (why is not None)
    said = "brightness has drifted. It {} acknowledged by ann@desk until 2026-05-31T00:00: new lamp"
    assert looked.reason == (
        said.format("is") if why is None else f"{said.format('was')}, but that no longer holds: {why}."
    )
    assert triggers.acknowledged(alarm, None, champion=champion, data=data, now=now) == alarm


def test_an_unfinished_run_is_named_with_its_beginning():
    trigger = triggers.unfinished({"started": "2026-05-20T03:00:00+00:00", "who": "ann@night"})
    assert trigger.reason.startswith("The run started at 2026-05-20T03:00:00+00:00 by ann@night did not finish")
