"""The temperature of a model, and the images that it is fitted on."""

import numpy as np
import pytest

from darkroom.evaluation.metrics.classification import expected_calibration_error
from darkroom.evaluation.metrics.temperature import scaled
from darkroom.training.calibration import calibrated, validated
from darkroom.training.data import Data

pytestmark = pytest.mark.heavy


def test_the_deployed_model_has_the_temperature_of_the_answers():
    import keras

    from darkroom.networks import inference

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8), rng.integers(0, 2, 40)
    keras.utils.set_random_seed(0)
    pictures = keras.Input((4, 4, 1), dtype="uint8")
    x = keras.layers.Flatten(name="last_features")(keras.layers.Rescaling(1 / 25)(pictures))
    model = inference.deployable(keras.Model(pictures, keras.layers.Dense(2)(x)))
    answers = validated(model, Data(images[:0], labels[:0], images, labels, ["a", "b"]), views="one", batch_size=8)
    cooled, changes = calibrated(model, answers)
    before, after = (one.predict(images, verbose=0) for one in (model, cooled))
    assert changes["temperature"] != 1.0
    assert answers.accuracy == (before.argmax(axis=1) == labels).mean()
    assert after == pytest.approx(scaled(before, changes["temperature"]), abs=1e-6)
    assert changes["val_ece"] == pytest.approx(expected_calibration_error(after, labels), abs=1e-6)
    assert changes["val_ece_uncalibrated"] == pytest.approx(expected_calibration_error(before, labels))
