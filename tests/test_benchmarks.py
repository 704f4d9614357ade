"""The arithmetic of the benchmarks, and how they change params; the measurements themselves are no tests."""

import pytest

from benchmarks import cifar10, mnist
from darkroom.params import read_params


@pytest.mark.parametrize(("accuracy", "expected"), [(0.4, 10.0), (0.5, 10.0), (0.6, 20.5), (0.8, 31.0), (0.9, None)])
def test_a_run_reaches_an_accuracy_with_the_first_epoch_that_has_it(accuracy, expected):
    run = {"seconds_until": [10.0, 20.5, 31.0], "test_accuracy": [0.5, 0.7, 0.8]}
    assert cifar10.first_reaching(accuracy, run) == expected


def test_a_benchmark_changes_the_keys_of_a_preset_that_it_names_and_no_other(tmp_path):
    (tmp_path / "presets").symlink_to(mnist.ROOT / "presets")
    mnist.use(tmp_path, "mnist-article", {"train.cnn.epochs": 1, "train.cnn.debug.max_steps": 3})
    changed, preset = (read_params(tmp_path / path) for path in ("params.yaml", "presets/mnist-article.yaml"))
    preset["train"]["cnn"]["epochs"], preset["train"]["cnn"]["debug"]["max_steps"] = 1, 3
    assert changed == preset
