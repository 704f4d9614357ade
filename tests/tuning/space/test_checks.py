import re
from typing import Any

import pytest

from darkroom.cli import presets
from darkroom.errors import ParamsError
from darkroom.tuning.space import checks
from darkroom.tuning.space.domains import Range
from tests.support.project import ROOT

RECIPE: dict[str, Any] = presets.read("mnist", root=ROOT)["train"]["cnn"]


def read(space: Any, *, is_searched: bool = True) -> Any:
    return checks.read({"cnn": space}, "cnn", RECIPE, is_searched=is_searched)


def around(value: float) -> dict[str, Any]:
    return {"float": [value / 2, value * 2]}


def test_a_space_around_the_values_of_train_is_read() -> None:
    rate = RECIPE["learning_rate"]
    assert read({"learning_rate": around(rate)}) == {"learning_rate": Range(rate / 2, rate * 2, integer=False)}


def test_values_may_lie_outside_where_nothing_is_searched() -> None:
    beyond = {"learning_rate": around(RECIPE["learning_rate"] * 10)}
    assert list(read(beyond, is_searched=False)) == ["learning_rate"]
    with pytest.raises(ParamsError, match=r"^params.yaml: tune.space.cnn: learning_rate allows .*; widen the range$"):
        read(beyond)


def test_a_candidate_without_a_part_is_reported() -> None:
    said = "tune.space has no section for the candidate 'cnn'; write `cnn: {}` to keep its values"
    for other, hint in (("transfer", ""), ("cn", "; did you mean 'cn'?")):
        with pytest.raises(ParamsError, match=re.escape(said + hint) + "$"):
            checks.read({other: {}}, "cnn", RECIPE, is_searched=True)


@pytest.mark.parametrize("is_searched", [True, False])
def test_an_edge_that_train_does_not_allow_is_refused(is_searched: bool) -> None:
    message = r"^params.yaml: tune.space.cnn: batch_size: 0: train.cnn.batch_size is 0: expected greater than"
    with pytest.raises(ParamsError, match=message):
        read({"batch_size": {"int": [0, RECIPE["batch_size"]]}}, is_searched=is_searched)


def test_a_key_that_train_lacks_is_refused_without_a_search_too() -> None:
    with pytest.raises(ParamsError, match=r"did you mean 'learning_rate'"):
        read({"learning_rat": around(0.1)}, is_searched=False)


@pytest.mark.parametrize(
    ("space", "name"),
    [
        ({"epochs": {"int": [3, 40]}}, "epochs"),
        ({"seed": {"int": [0, 9]}}, "seed"),
        ({"calibration": {"categorical": ["none", "temperature"]}}, "calibration"),
        ({"checkpoint": {"categorical": ["best", "last"]}}, "checkpoint"),
        ({"debug.max_steps": {"int": [3, 40]}}, "debug.max_steps"),
        ({"sets.coverage": {"float": [0.8, 0.99]}}, "sets.coverage"),
        (
            {
                "architecture": {
                    "categorical": [{"name": "transfer", "finetune_epochs": {"int": [1, 5]}}, {"name": "x"}]
                }
            },
            "architecture.finetune_epochs",
        ),
        (
            {
                "architecture": {
                    "categorical": [{"name": "transfer", "finetune_epochs": {"int": [1, 5]}}, {"name": "transfer"}]
                }
            },
            "architecture.finetune_epochs",
        ),
        ({"early_stopping": {"categorical": [None, {"metric": "val_loss", "patience": 3}]}}, "early_stopping"),
    ],
)
@pytest.mark.parametrize("is_searched", [True, False])
def test_what_no_trial_can_tell_is_refused(space: Any, name: str, is_searched: bool) -> None:
    message = rf"^params.yaml: tune.space.cnn: {re.escape(name)} cannot be searched, because .*; set a fixed value in"
    with pytest.raises(ParamsError, match=message):
        read(space, is_searched=is_searched)


def test_choices_that_no_trial_can_tell_apart_are_refused() -> None:
    space = {"architecture": {"categorical": [{"name": "transfer", "finetune_epochs": n} for n in (5, 20)]}}
    with pytest.raises(
        ParamsError, match=r"architecture.finetune_epochs differs between the choices, but .* make it eq"
    ):
        read(space)


HEAD = {**RECIPE, "architecture": {"name": "transfer", "mode": "features", "units": 0, "dropout": 0.0, "unfreeze": 1}}
HEAD["architecture"] |= {"finetune_epochs": 1, "finetune_learning_rate": 0.001}


@pytest.mark.parametrize("key", ["learning_rate", "optimizer.weight_decay", "architecture.dropout"])
def test_a_key_that_a_solved_head_does_not_use_is_refused(key: str) -> None:
    space = {"transfer": {key: {"float": [0.0001, 0.5]}}}
    with pytest.raises(ParamsError, match=f"tune.space.transfer: {key} has no effect: .* delete it here, or set"):
        checks.read(space, "transfer", HEAD, is_searched=True)
    units = {"architecture.units": {"int": [0, 64]}}
    assert len(checks.read({"transfer": {**space["transfer"], **units}}, "transfer", HEAD, is_searched=False)) == 2
    network = HEAD["architecture"] | {"mode": "frozen"}
    assert checks.read(space, "transfer", HEAD | {"architecture": network}, is_searched=False)


@pytest.mark.parametrize(
    ("mode", "key", "message"),
    [
        ("features", "architecture.unfreeze", "mode features leaves the backbone as it is; delete it here, or set"),
        ("frozen", "architecture.finetune_learning_rate", "mode frozen leaves the backbone as it is; delete it"),
        ("features", "train_augmentation.mixup", "features do not vary; delete it here, or set architecture.mode"),
        ("frozen", "optimizer.momentum", "adam has its own; delete it here, or set optimizer.name"),
    ],
)
def test_a_key_that_no_trial_uses_is_refused(mode: str, key: str, message: str) -> None:
    network = {**HEAD["architecture"], "mode": mode, "units": 8}
    base = {**HEAD, "architecture": network, "optimizer": {**HEAD["optimizer"], "name": "adam"}}
    space: dict[str, Any] = {key: {"int": [1, 3]} if key.endswith("unfreeze") else {"float": [0.0001, 0.9]}}
    with pytest.raises(ParamsError, match=f"^params.yaml: tune.space.transfer: {key} has no effect: {message}"):
        checks.read({"transfer": space}, "transfer", base, is_searched=True)
    assert checks.read({"transfer": space}, "transfer", base, is_searched=False), "no trial is drawn"
    if not key.startswith("optimizer"):  # the number of units says nothing of the mode
        units = {"architecture.units": {"int": [8, 64]}}
        with pytest.raises(ParamsError, match=f"{key} has no effect"):
            checks.read({"transfer": space | units}, "transfer", base, is_searched=True)
    modes = {"architecture.mode": {"categorical": ["features", "frozen", "finetune"]}}
    others = {**modes, "optimizer.name": {"categorical": ["adam", "sgd"]}}
    assert len(checks.read({"transfer": space | others}, "transfer", base, is_searched=False)) == 3


def test_steps_may_be_searched_beside_a_choice_of_networks() -> None:
    other = {**HEAD["architecture"], "units": {"int": [8, 64]}}
    space = {"architecture": {"categorical": [HEAD["architecture"], other]}, "learning_rate": around(0.001)}
    assert len(checks.read({"transfer": space}, "transfer", HEAD, is_searched=False)) == 2
