import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkroom.errors import DataError, ParamsError
from darkroom.training import overrides

RECIPE: dict[str, Any] = {
    "architecture": {"name": "compact", "filters": [32, 64], "dropout": 0.0},
    "batch_size": "auto",
    "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0005, "clip_norm": None},
    "schedule": {"name": "one_cycle", "warmup": 0.2},
    "learning_rate": 0.2,
    "early_stopping": None,
}
PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=30)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE
    | st.sampled_from(
        ["", "null", "no", "1e-3", "0x1f", "1_000", "2026-01-01", "[1]", "# none", "a: b", "~", ".5", "- 1"]
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PRINTABLE, inner, max_size=3), max_leaves=6
)


def typed(value: Any) -> Any:
    """A value with its types, for comparisons in which 1, 1.0 and true differ."""
    if isinstance(value, dict):
        return {key: typed(content) for key, content in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(values=st.dictionaries(PRINTABLE, VALUES, max_size=4))
def test_what_is_written_is_read_back_with_its_types_and_order(tmp_path: Path, values: dict[str, Any]) -> None:
    overrides.write(tmp_path / "best.yaml", values, comment="written by tune")
    found = overrides.read(tmp_path / "best.yaml")
    assert typed(found) == typed(values)
    assert list(found) == list(values)


def test_the_file_says_its_origin_then_one_key_a_line(tmp_path: Path) -> None:
    values = {"optimizer.weight_decay": 0.00001, "architecture": {"name": "compact", "filters": [32], "dropout": 0.5}}
    overrides.write(tmp_path / "new" / "best.yaml", values, comment="Trial 3 of 10; val_accuracy 0.99")
    assert (tmp_path / "new" / "best.yaml").read_text() == (
        "# Trial 3 of 10; val_accuracy 0.99\n"
        "optimizer.weight_decay: 1e-05\n"
        "architecture:\n  name: compact\n  filters:\n  - 32\n  dropout: 0.5\n"
    )


def test_values_that_yaml_does_not_know_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    overrides.write(path, {"learning_rate": 0.1}, comment="old")
    with pytest.raises(Exception, match="object"):
        overrides.write(path, {"learning_rate": object()}, comment="new")
    assert overrides.read(path) == {"learning_rate": 0.1}
    assert [file.name for file in tmp_path.iterdir()] == ["best.yaml"], "and nothing half-written beside it"


def test_a_file_that_cannot_be_written_is_reported_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").mkdir()
    with pytest.raises(DataError, match=r"best\.yaml: cannot be written"):
        overrides.write(tmp_path / "best.yaml", {}, comment="none")


@pytest.mark.parametrize(
    "text", ["", "# nothing was better than train's own values\n", "{}\n", "# none\n{}\n", "null\n"]
)
def test_a_file_that_says_nothing_overrides_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "best.yaml").write_text(text)
    assert overrides.read(tmp_path / "best.yaml") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"learning_rate: [", "not valid YAML: while parsing"),
        (b"learning_rate: \xff", "not valid YAML: unacceptable character #x00ff"),
        (b"learning_rate: 2026-99-99", "not valid YAML: month must be in 1..12"),
        (b"learning_rate: 1\nlearning_rate: 2", "not valid YAML: while constructing a mapping"),
        (b"- 1", "expected keys of train and their values, found list; run `dvc repro tune`"),
        (b"0.1", "expected keys of train and their values, found float; run `dvc repro tune`"),
        (b"3: 0.1", "3 is not a key of train, expected text; run `dvc repro tune`"),
    ],
)
def test_a_damaged_file_says_what_writes_it_again(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "best.yaml").write_bytes(content)
    with pytest.raises(DataError, match=rf"best\.yaml: {re.escape(message)}") as caught:
        overrides.read(tmp_path / "best.yaml")
    assert str(caught.value).endswith("; run `dvc repro tune`")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"best\.yaml does not exist yet; run `dvc repro tune`"):
        overrides.read(tmp_path / "best.yaml")


def test_a_folder_in_its_place_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory; fix that"):
        overrides.read(tmp_path)


def test_values_replace_those_at_their_keys_and_the_recipe_stays() -> None:
    before, filters = copy.deepcopy(RECIPE), [16, 32]
    values = {"optimizer.weight_decay": 0.0, "architecture": {"name": "fast", "filters": filters}, "early_stopping": 3}
    applied = overrides.apply(RECIPE, values)
    assert applied == RECIPE | {
        "optimizer": RECIPE["optimizer"] | {"weight_decay": 0.0},
        "architecture": {"name": "fast", "filters": [16, 32]},
        "early_stopping": 3,
    }
    filters.append(64)
    applied["schedule"]["warmup"] = 0.5
    assert applied["architecture"]["filters"] == [16, 32], "it shares nothing with the values"
    assert before == RECIPE, "nor with the recipe"


def test_no_values_give_a_copy() -> None:
    applied = overrides.apply(RECIPE, {})
    assert applied == RECIPE
    assert applied["optimizer"] is not RECIPE["optimizer"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "learnig_rate",
            "train has no key 'learnig_rate'; known keys: architecture, batch_size, optimizer, schedule, "
            "learning_rate, early_stopping; did you mean 'learning_rate'?",
        ),
        (
            "optimizer.weigth_decay",
            "train has no key 'optimizer.weigth_decay'; known keys of optimizer: name, momentum, weight_decay, "
            "clip_norm; did you mean 'optimizer.weight_decay'?",
        ),
        ("optimiser.momentum", "early_stopping; did you mean 'optimizer.momentum'?"),
        ("dropout", "early_stopping; did you mean 'architecture.dropout'?"),
        (
            "schedule.decay_of_it_all",
            "train has no key 'schedule.decay_of_it_all'; known keys of schedule: name, warmup",
        ),
        (
            "early_stopping.patience",
            "train has no key 'early_stopping.patience': early_stopping is null, which has no keys",
        ),
        (
            "architecture.filters.0",
            "train has no key 'architecture.filters.0': architecture.filters is [32, 64], which has no keys",
        ),
        ("", "train has no key ''; known keys: architecture"),
        ("optimizer.", "train has no key 'optimizer.'; known keys of optimizer: name"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key: str, message: str) -> None:
    for refuse in (overrides.apply, overrides.changed):
        with pytest.raises(ParamsError) as caught:
            refuse(RECIPE, {key: 1})
        assert message in str(caught.value)


def test_nothing_near_is_not_guessed() -> None:
    with pytest.raises(ParamsError, match=r"known keys of schedule: name, warmup$"):
        overrides.value_at(RECIPE, "schedule.decay_of_it_all")


def test_an_empty_recipe_has_no_known_keys() -> None:
    with pytest.raises(ParamsError, match=r"train has no key 'learning_rate'; known keys: none$"):
        overrides.apply({}, {"learning_rate": 1})


@pytest.mark.parametrize("order", [1, -1])
def test_a_key_and_a_part_of_it_are_refused_in_either_order(order: int) -> None:
    values = {"architecture": {"name": "fast"}, "architecture.dropout": 0.1}
    message = (
        "both 'architecture' and 'architecture.dropout', a part of it, are given; "
        "give 'dropout' inside 'architecture' and delete 'architecture.dropout'"
    )
    with pytest.raises(ParamsError, match=re.escape(message)):
        overrides.apply(RECIPE, dict(list(values.items())[::order]))


def test_keys_that_only_begin_alike_stand_beside_each_other() -> None:
    overrides.check_apart(["learning_rate", "learning_rate_2", "optimizer.name", "optimizer.names"])


def test_what_changes_is_told_with_both_values() -> None:
    values = {"learning_rate": 0.2, "optimizer.momentum": 0.8, "early_stopping": None, "batch_size": 64}
    assert overrides.changed(RECIPE, values) == {"optimizer.momentum": (0.9, 0.8), "batch_size": ("auto", 64)}


def test_a_long_value_is_cut_in_a_message() -> None:
    assert overrides.shown(list(range(1000))) == str(list(range(1000)))[:200] + "..."
