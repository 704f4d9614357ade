"""The arithmetic of the benchmarks, and how they change params; the measurements themselves are no tests."""

import os
from typing import Any

import numpy as np
import pytest

from benchmarks import cifar10, http_layer, mnist, record, serve, soak, tuning, tuning_peers, unknown
from darkroom.cli import presets
from darkroom.project.params import read_params
from darkroom.tuning.rows import TrialRow
from tests.support.onnx_model import write_model


@pytest.mark.parametrize(("accuracy", "expected"), [(0.4, 10.0), (0.5, 10.0), (0.6, 20.5), (0.8, 31.0), (0.9, None)])
def test_an_accuracy_is_reached_with_the_first_epoch_that_has_it(accuracy, expected):
    run = {"seconds_until": [10.0, 20.5, 31.0], "test_accuracy": [0.5, 0.7, 0.8]}
    assert cifar10.first_reaching(accuracy, run) == expected


def test_a_benchmark_changes_only_the_keys_that_it_names(tmp_path):
    (tmp_path / "presets").symlink_to(mnist.ROOT / "presets")
    mnist.use(tmp_path, "mnist-article", {"train.cnn.epochs": 1, "train.cnn.debug.max_steps": 3})
    changed, preset = read_params(tmp_path / "params.yaml"), presets.read("mnist-article", root=mnist.ROOT)
    preset["train"]["cnn"]["epochs"], preset["train"]["cnn"]["debug"]["max_steps"] = 1, 3
    assert changed == preset


@pytest.mark.slow
def test_a_preset_is_measured_in_a_clone(monkeypatch):
    for name in ("PATH", "PYTHONPATH"):  # which clone() changes
        monkeypatch.setenv(name, os.environ.get(name, ""))
    with mnist.clone() as root:
        found = mnist.run_preset(root, "smoke", seeds=[7, 8], epochs=1)
    assert found["winners"] == ["cnn", "cnn"]
    assert all(0.1 < accuracy < 1.0 for accuracy in found["test_accuracy_by_seed"])
    assert found["stage_seconds"] > found["train_seconds"] > 0
    assert found["tune_seconds"] > 0


def a_trial(number: int, *, worker: str, started: float, seconds: float) -> TrialRow:
    return TrialRow(number, "complete", {}, {"val_accuracy": 0.5}, {}, True, None, None, worker, started, seconds)


def test_trials_per_hour_are_told_with_and_without_the_start():
    trials = [
        a_trial(0, worker="a", started=100.0, seconds=30.0),
        a_trial(1, worker="b", started=100.0, seconds=40.0),
        a_trial(2, worker="a", started=130.0, seconds=10.0),
        a_trial(3, worker="a", started=140.0, seconds=10.0),
        a_trial(4, worker="b", started=140.0, seconds=20.0),
    ]
    found = tuning.rates(trials)
    assert found["trials_per_hour"] == 300  # 5 in 60 s
    assert found["running_trials_per_hour"] == 540  # 2 in 20 s and 1 in 20 s
    assert found["trials_of_each_worker"] == [3, 2]


def test_tune_is_compared_with_every_other_seed_by_seed():
    ours, others = [0.62, 0.6, 0.7], [0.6, 0.61, 0.7]
    runs = {side: [{"test_accuracy": accuracy} for accuracy in others] for side in tuning_peers.SIDES}
    runs["darkroom"] = [{"test_accuracy": accuracy} for accuracy in ours]
    assert tuning_peers.comparison(runs)["darkroom against optuna"] == {
        "test_accuracy_gain_points": 0.33,
        "test_accuracy_gain_points_by_seed": [2.0, -1.0, 0.0],
        "seeds_won": "1 of 3",
    }


def test_what_a_run_leaves_out_stays_with_its_origin():
    there = {"command": "all", "commit": "a", "machine": "old", "python": "3.11", "versions": {"keras": "3"}}
    here = there | {"command": "rate", "commit": "b", "machine": "new"}
    old = there | {"memory": 1, "rate": 2, "of no part": 3}
    once = record.with_earlier(here | {"rate": 5}, old, parts=("memory", "rate"))
    assert once["rate"] == 5
    assert once["memory"] == 1
    assert "of no part" not in once
    assert once["machine"] == "new"
    assert once["earlier"] == {"memory": there}
    twice = record.with_earlier(here | {"commit": "c", "rate": 6}, once, parts=("memory", "rate"))
    assert twice["earlier"] == once["earlier"]


def test_only_errors_after_a_kill_are_explained_by_it():
    errors = [(99.9, 503), (100.5, 0), (101.0, 503), (104.0, 500)]
    found = soak.summary(errors, killed=[100.0])
    assert found == {"after_a_kill": 2, "elsewhere": 2, "statuses": {"503": 1, "500": 1}}


def test_a_server_is_judged_by_the_median_of_its_turns():
    turn: dict[str, float | None] = {
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "cpu_ms": 0.5,
        "max_ms": 9.0,
        "n_requests": 10,
        "n_errors": 0,
    }
    turns = [
        turn | {"requests_per_second": rate, "p50_ms": p50} for rate, p50 in ((5.0, 1.0), (90.0, None), (6.0, 1.2))
    ]
    found = serve.median([*turns[:2], turns[2] | {"max_ms": None, "n_errors": 1}])
    assert (found["requests_per_second"], found["p50_ms"], found["max_ms"]) == (6.0, 1.1, 9.0)
    assert (found["n_requests"], found["n_errors"]) == (30, 1)


def test_what_the_second_output_costs_is_counted(tmp_path):
    told = {"unknown_below": 0.01, "familiarity": {"strangeness": [9.0], "share": [0.001]}}
    given: dict[str, Any] = {"classes": ["a", "b"], "image_shape": (8, 8, 1), "metadata": told}
    path = write_model(tmp_path / "model.onnx", **given, strangeness=np.ones(64))
    found = unknown.cost(path, np.zeros((8, 8, 1), np.uint8))
    assert 64 * 4 < found["onnx_bytes_added"] < 1000, "the weights, a node and what the metadata say"
    assert found["onnx_bytes"] == path.stat().st_size
    assert found["latency_ratio"] > 0


def test_strangers_are_ranked_and_false_alarms_counted():
    known, strange = np.array([-1.0, -0.5, -0.001]), np.array([-0.001, -0.001])
    assert unknown.area(known, strange) == pytest.approx(5 / 6, abs=1e-4)
    assert unknown.rate_below(0.01, known)["share"] == pytest.approx(1 / 3, abs=1e-4)


def test_servers_are_compared_turn_by_turn():
    def turn(rate, p95_ms):
        return {"requests_per_second": rate, "p95_ms": p95_ms, "cpu_ms": 0.1}

    ours = [turn(8.0, 1.0), turn(4.0, 2.0), turn(6.0, 1.0)]
    others = [turn(4.0, 2.0), turn(4.0, 2.0), turn(2.0, 4.0)]
    found = http_layer.compared({"darkroom": ours, "granian": others})
    assert found["times_the_requests_of"] == {"granian": 2.0}
    assert found["share_of_the_p95_of"] == {"granian": 0.5}
    assert found["times_the_cpu_of"] == {"granian": 1.0}
