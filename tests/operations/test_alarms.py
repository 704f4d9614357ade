from datetime import UTC, datetime

import pytest

from darkroom.operations import alarms
from darkroom.operations.params import RetrainParams
from darkroom.project.params import read_params
from tests.support.project import ROOT


@pytest.mark.parametrize(
    ("drift_log", "minimum", "reasons"),
    [
        (
            None,
            None,
            [
                "No prediction log is set (retrain.drift_log).",
                "No least accuracy is set (retrain.min_recent_accuracy).",
            ],
        ),
        (
            "logs/shop",
            0.9,
            [
                "The prediction log logs/shop (retrain.drift_log) does not exist yet.",
                "0 labelled images of the champion: fewer than retrain.min_labelled_images (50).",
            ],
        ),
    ],
)
def test_without_a_log_both_alarms_say_why_they_are_silent(tmp_path, drift_log, minimum, reasons):
    values = read_params(ROOT / "params.yaml")["retrain"]
    values |= {"drift_log": drift_log, "min_recent_accuracy": minimum, "min_labelled_images": 50}
    params = RetrainParams.model_validate(values)
    looked = alarms.look(params, root=tmp_path, model="pets", now=datetime.now(UTC))
    assert [trigger.name for trigger in looked] == ["drift", "recent_accuracy"]
    assert [trigger.reason for trigger in looked] == reasons
    assert not any(trigger.fired for trigger in looked)
