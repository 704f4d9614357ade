import csv
import json
from pathlib import Path

from darkroom.training import overrides
from darkroom.tuning import report
from darkroom.tuning.choice import ChosenTrial
from darkroom.tuning.plan import Plan
from darkroom.tuning.space.syntax import parse
from tests.support.trials import MIXED

PLAN = Plan(
    sampler="random",
    pruner="none",
    seed=7,
    objectives=("val_accuracy", "latency_ms"),
    limits={"latency_ms": 3.0},
    n_startup_trials=3,
)


def test_chosen_values_are_for_train_the_reason_for_people(tmp_path: Path) -> None:
    best, folder = tmp_path / "models" / "cnn" / "best.yaml", tmp_path / "report"
    values = {"learning_rate": 0.05, "architecture": {"name": "compact", "filters": [4, 8]}}
    report.write(best, folder, rows=MIXED, chosen=ChosenTrial(1, "better by far"), values=values)
    assert overrides.read(best) == values
    assert json.loads((folder / "chosen.json").read_text()) == {"trial": 1, "reason": "better by far", "values": values}
    with (folder / "trials.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [str(row.number) for row in MIXED]


def test_equal_values_give_the_same_best_yaml(tmp_path: Path) -> None:
    written = []
    for reason in ("not tuned: tune.trials is 0", "within chance"):
        report.write(tmp_path / "b", tmp_path, rows=[], chosen=ChosenTrial(None, reason), values={})
        written.append((tmp_path / "b").read_bytes())
    assert written[0] == written[1]


def test_a_second_objective_brings_a_picture_of_the_pareto_front(tmp_path: Path) -> None:
    space = parse({"learning_rate": {"float": [1e-5, 0.1], "log": True}})
    report.draw(tmp_path, rows=MIXED, scores={"learning_rate": 1.0}, space=space, plan=PLAN, chosen=1)
    drawn = {"history.png", "curves.png", "slices.png", "importance.png", "pareto.png"}
    assert {file.name for file in tmp_path.iterdir()} == drawn
