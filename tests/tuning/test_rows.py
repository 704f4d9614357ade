import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from darkroom.project.text import written
from darkroom.training.params import TrainParams
from darkroom.tuning.rows import best_so_far, best_trial, columns, n_finished, pareto_front, write_csv
from tests.support.trials import MIXED, trial


def test_the_best_trial_is_feasible_complete_and_earliest() -> None:
    best = best_trial([*MIXED, trial(9, 0.93)])
    assert best is not None
    assert best.number == 1
    assert best_trial([*MIXED[2:4], trial(0, float("nan"))]) == MIXED[2]
    assert best_trial(MIXED[3:]) is None
    assert best_so_far(reversed(MIXED)) == {0: 0.9} | dict.fromkeys(range(1, 9), 0.93)
    assert best_so_far(MIXED[3:]) == {}


def test_no_trial_of_the_front_is_beaten_in_accuracy_and_cost() -> None:
    rows = [
        trial(0, 0.9, metrics={"val_accuracy": 0.9, "latency_ms": 2.0}),
        trial(1, 0.8, metrics={"val_accuracy": 0.8, "latency_ms": 1.0}),
        trial(2, 0.8, metrics={"val_accuracy": 0.8, "latency_ms": 1.5}),
        trial(3, 0.95, metrics={"val_accuracy": 0.95, "latency_ms": 3.0}),
        trial(4, 0.99, metrics={"val_accuracy": 0.99, "latency_ms": 3.0}, feasible=False),
        trial(5, 0.95, metrics={"val_accuracy": 0.95, "latency_ms": 3.0}),
        trial(6, 0.99, metrics={"val_accuracy": 0.99}),
    ]
    assert [row.number for row in pareto_front(rows, "latency_ms")] == [1, 0, 3]
    assert pareto_front(rows, "model_bytes") == []


def test_a_killed_trial_is_not_counted() -> None:
    killed = [trial(0, state="killed"), trial(1, state="killed")]
    assert n_finished(killed) == 0
    assert n_finished([*killed, trial(2, state="running", retry_of=0)]) == 0
    assert n_finished([*killed, trial(2, 0.9, retry_of=0), trial(3), trial(4, state="waiting")]) == 2


def test_trials_csv_has_a_line_per_trial(tmp_path: Path) -> None:
    path = write_csv(list(reversed(MIXED)), tmp_path / "reports" / "trials.csv")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["trial"] for line in lines] == [str(number) for number in range(9)]
    assert lines[1] == {
        "trial": "1",
        "state": "complete",
        "val_accuracy": "0.93",
        "best_val_accuracy": "0.93",
        "latency_ms": "2.0",
        "model_bytes": "400000.0",
        "trained_epochs": "2",
        "seconds": "9.0",
        "retry_of": "",
        "reason": "",
        "learning_rate": "1e-05",
        "optimizer.name": "",
        "early_stopping": "null",
        "depth": "3",
    }
    assert (lines[3]["val_accuracy"], lines[3]["reason"]) == ("", "loss is not finite")
    assert lines[4]["best_val_accuracy"] == "0.93"


def test_trials_csv_of_no_trial_is_a_header(tmp_path: Path) -> None:
    header = "trial,state,val_accuracy,best_val_accuracy,trained_epochs,seconds,retry_of,reason\n"
    assert write_csv([], tmp_path / "trials.csv").read_text() == header


def test_no_column_of_trials_csv_can_be_mistaken_for_a_parameter() -> None:
    fixed = columns([trial(0, 0.9, params={})])
    assert not set(fixed) & set(TrainParams.model_fields)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (0.000123456, "0.000123"), (64, "64"), ("sgd", "sgd")]
)
def test_a_value_is_written_as_in_params_yaml(value: Any, text: str) -> None:
    assert written(value) == text


def test_rows_need_nothing_but_the_standard_library() -> None:
    code = "import sys, darkroom.tuning.rows; print(*{'numpy', 'pandas', 'matplotlib', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
