import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from darkroom.cli import presets
from darkroom.errors import ParamsError
from darkroom.training.overrides import apply, read, value_at, write
from darkroom.training.params import TrainParams
from darkroom.tuning.space.domains import (
    Categorical,
    Domain,
    Range,
    Space,
    domains,
    draw,
    edges,
    grid,
    initial,
    is_conditional,
)
from darkroom.tuning.space.syntax import parse
from tests.support.project import ROOT

COMPACT = {"name": "compact", "filters": [32, 64, 128], "stem_kernel_size": 5, "head": "flatten"}
FAST = {"name": "fast", "filters": [32, 64], "whitening_kernel_size": 2, "activation": "gelu"}
WRITTEN: dict[str, Any] = {
    "learning_rate": {"float": [0.001, 1], "log": True},
    "batch_size": {"int": [64, 512], "step": 64},
    "optimizer.name": {"categorical": ["sgd", "adam"]},
    "architecture": {"categorical": [{**COMPACT, "dropout": {"float": [0, 0.5]}}, FAST]},
    "early_stopping": {"categorical": [None, {"metric": "val_loss", "patience": {"int": [2, 5]}}]},
}
RECIPE: dict[str, Any] = {
    "architecture": {**COMPACT, "dropout": 0.0},
    "batch_size": 128,
    "optimizer": {"name": "sgd", "momentum": 0.9},
    "learning_rate": 0.2,
    "early_stopping": None,
}
PATIENCE = '{"metric":"val_loss","patience":{"int":[2,5]}}'
DROPOUT = "architecture[compact].dropout"


def from_yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def taking(values: dict[str, Any]) -> Callable[[str, Domain], Any]:
    """What asks for every name of values once, and for no other; the values are consumed."""
    return lambda name, _domain: values.pop(name)


def test_nothing_to_search_is_an_empty_space() -> None:
    assert parse({}) == {}
    assert (initial({}, RECIPE), draw({}, taking({})), list(edges({})), grid({})) == ({}, {}, [], {})


def test_parameters_inside_choices_have_names_of_their_own() -> None:
    space = parse(WRITTEN)
    assert list(domains(space)) == [
        "learning_rate",
        "batch_size",
        "optimizer.name",
        "architecture",
        DROPOUT,
        "early_stopping",
        f"early_stopping[{PATIENCE}].patience",
    ]
    assert domains(space)[DROPOUT] == Range(0.0, 0.5, integer=False)
    same = {"name": "a", "b": {"c": [1, {"int": [1, 2]}], "d": {"categorical": [{"e": {"int": [1, 2]}}, {"f": 1}]}}}
    assert list(domains(parse({"x": {"categorical": [same, {**same, "name": "z"}, {"float": [0, 1]}]}}))) == [
        "x",
        "x[a].b.c.1",
        "x[a].b.d",
        'x[a].b.d[{"e":{"int":[1,2]}}].e',
        "x[z].b.c.1",
        "x[z].b.d",
        'x[z].b.d[{"e":{"int":[1,2]}}].e',
        'x[{"float":[0,1]}]',
    ]


def test_a_space_is_conditional_where_a_choice_brings_parameters() -> None:
    assert is_conditional(parse(WRITTEN))
    assert not is_conditional(parse({"architecture": {"categorical": [COMPACT, FAST]}, "seed": {"int": [0, 9]}}))
    assert not is_conditional({})


@pytest.mark.parametrize(
    ("ends", "step", "n_values"), [([0, 0.3], 0.1, 4), ([0.1, 0.7], 0.2, 4), ([1e-5, 3e-5], 1e-5, 3), ([-1, 1], 1, 3)]
)
def test_steps_count_in_decimals_as_written(ends: list[float], step: float, n_values: int) -> None:
    values = grid(parse({"x": {"float": ends, "step": step}}))["x"]
    assert len(values) == n_values
    assert (values[0], values[-1]) == tuple(ends)
    assert all(type(value) is float for value in values)


def test_train_values_are_told_by_the_names_of_draw() -> None:
    values = initial(parse(WRITTEN), RECIPE)
    assert values == {
        "learning_rate": 0.2,
        "batch_size": 128,
        "optimizer.name": "sgd",
        "architecture": "compact",
        DROPOUT: 0.0,
        "early_stopping": None,
    }
    assert apply(RECIPE, draw(parse(WRITTEN), taking(values))) == RECIPE
    assert not values, "each was asked for"


def test_an_integer_in_train_is_a_float_in_a_range_of_floats() -> None:
    value = initial(parse({"x": {"float": [0, 1]}}), {"x": 0})["x"]
    assert (value, type(value)) == (0.0, float)


def test_a_value_between_steps_by_a_rounding_error_is_on_them() -> None:
    space = parse({"x": {"float": [0, 0.5], "step": 0.1}})
    assert initial(space, {"x": 0.1 + 0.2}) == {"x": 0.1 + 0.2}, "as a sampler draws it, and a person copies it"


def test_the_first_of_two_options_that_hold_the_value_is_taken() -> None:
    halves = [{"name": "a", "b": {"float": [0, 0.5]}}, {"name": "a", "b": {"float": [0.5, 1]}}]
    values = initial(parse({"x": {"categorical": halves}}), {"x": {"name": "a", "b": 0.7}})
    assert list(values.values()) == ['{"name":"a","b":{"float":[0.5,1]}}', 0.7]
    values = initial(parse({"x": {"categorical": halves}}), {"x": {"name": "a", "b": 0.5}})
    assert list(values.values()) == ['{"name":"a","b":{"float":[0,0.5]}}', 0.5]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "learning_rate",
            2.0,
            "learning_rate allows float [0.001, 1.0] log, but train, which is trial 0, has 2.0; widen the range",
        ),
        (
            "learning_rate",
            0.0,
            "float [0.001, 1.0] log, but train, which is trial 0, has 0.0; widen the range",
        ),
        (
            "batch_size",
            100,
            "batch_size allows int [64, 512] in steps of 64, but train, which is trial 0, has 100; "
            "change the step or the value there",
        ),
        ("batch_size", "auto", "but train, which is trial 0, has auto; set such a number there"),
        ("batch_size", 128.0, "but train, which is trial 0, has 128.0; set such a number there"),
        ("batch_size", True, "but train, which is trial 0, has true; set such a number there"),
        ("learning_rate", None, "but train, which is trial 0, has null; set such a number there"),
        (
            "optimizer.name",
            "muon",
            "optimizer.name allows sgd, adam, but train, which is trial 0, has muon; add it to the choices",
        ),
        (
            "architecture.dropout",
            0.7,
            f"{DROPOUT} allows float [0.0, 0.5], but train, which is trial 0, has 0.7; widen the range",
        ),
        (
            "architecture.filters",
            [32, 64],
            "architecture[compact].filters allows [32, 64, 128], but train, which is trial 0, has [32, 64]; "
            "make them equal",
        ),
        (
            "architecture.head",
            "average",
            "architecture[compact].head allows flatten, but train, which is",
        ),
        (
            "architecture",
            {**FAST, "width": 2},
            "architecture[fast] allows the keys name, filters, whitening_kernel_size, activation, but train, which is "
            "trial 0, has the keys name, filters, whitening_kernel_size, activation, width; make them equal",
        ),
        (
            "architecture",
            {"name": "lenet5"},
            'architecture allows compact, fast, but train, which is trial 0, has {"name": "lenet5"}; add it',
        ),
        ("architecture", None, "architecture allows compact, fast, but train, which is trial 0, has null; add it"),
        ("early_stopping", {"metric": "val_loss", "patience": 9}, "patience allows int [2, 5], but train, which is"),
        ("early_stopping", {}, "allows the keys metric, patience, but train, which is trial 0, has the keys none"),
        (
            "early_stopping",
            [],
            f"allows null, {PATIENCE}, but train, which is trial 0, has []; add it",
        ),
    ],
)
def test_a_train_value_outside_the_space_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        initial(parse(WRITTEN), apply(RECIPE, {key: value}))


def test_a_key_that_train_lacks_is_answered_with_the_nearest() -> None:
    space = parse({"optimizer.nmae": {"categorical": ["sgd", "adam"]}})
    message = (
        "train has no key 'optimizer.nmae'; known keys of optimizer: name, momentum; did you mean 'optimizer.name'?"
    )
    with pytest.raises(ParamsError, match=re.escape(message)):
        initial(space, RECIPE)


def test_what_is_drawn_replaces_its_description() -> None:
    drawn = {
        "learning_rate": 0.01,
        "batch_size": 192,
        "optimizer.name": "adam",
        "architecture": "compact",
        DROPOUT: 0.25,
        "early_stopping": PATIENCE,
        f"early_stopping[{PATIENCE}].patience": 3,
    }
    asked: list[tuple[str, Domain]] = []

    def suggest(name: str, domain: Domain) -> Any:
        asked.append((name, domain))
        return drawn[name]

    space = parse(WRITTEN)
    assert draw(space, suggest) == {
        "learning_rate": 0.01,
        "batch_size": 192,
        "optimizer.name": "adam",
        "architecture": {**COMPACT, "dropout": 0.25},
        "early_stopping": {"metric": "val_loss", "patience": 3},
    }
    assert asked == list(domains(space).items())
    drawn["architecture"] = "fast"
    asked.clear()
    assert draw(space, suggest)["architecture"] == FAST
    assert DROPOUT not in dict(asked), "only its choice has dropout"


def test_numbers_get_the_type_of_their_range() -> None:
    drawn = draw(parse({"x": {"float": [0, 9]}, "n": {"int": [0, 9]}}), lambda name, _: {"x": 3, "n": 3.0}[name])
    assert [(value, type(value)) for value in drawn.values()] == [(3.0, float), (3, int)]


def test_two_draws_share_nothing() -> None:
    space = parse(WRITTEN)
    first, second = (draw(space, lambda name, _: initial(space, RECIPE)[name]) for _ in range(2))
    first["architecture"]["filters"].append(256)
    assert second["architecture"]["filters"] == [32, 64, 128]


def test_a_label_of_another_space_is_refused() -> None:
    message = "x allows a, b, but c was drawn, from a different space"
    with pytest.raises(ParamsError, match=message):
        draw(parse({"x": {"categorical": ["a", "b"]}}), lambda *_: "c")


def test_edges_are_all_ends_and_options_one_at_a_time() -> None:
    inner = {"categorical": [{"name": "i", "d": {"int": [1, 2]}}, None]}
    written = {
        "learning_rate": {"float": [0.1, 1], "log": True},
        "a": {"categorical": [{"name": "x", "b": {"int": [3, 9]}, "c": inner}, {"name": "y"}, None]},
    }
    first = {"name": "i", "d": 1}
    assert list(edges(parse(written))) == [
        ("learning_rate: 0.1", {"learning_rate": 0.1}),
        ("learning_rate: 1.0", {"learning_rate": 1.0}),
        ("a: x", {"a": {"name": "x", "b": 3, "c": first}}),
        ("a[x].b: 9", {"a": {"name": "x", "b": 9, "c": first}}),
        ("a[x].c[i].d: 2", {"a": {"name": "x", "b": 3, "c": {"name": "i", "d": 2}}}),
        ("a[x].c: null", {"a": {"name": "x", "b": 3, "c": None}}),
        ("a: y", {"a": {"name": "y"}}),
        ("a: null", {"a": None}),
    ]


def test_an_edge_that_train_forbids_is_found_before_training() -> None:
    recipe = presets.read("mnist", root=ROOT)["train"]["cnn"]
    dropout = {"float": [0, 1]}  # must be below 1
    space = parse(WRITTEN | {"architecture": {"categorical": [{**COMPACT, "dropout": dropout}, FAST]}})
    assert apply(recipe, draw(space, lambda name, _: initial(space, recipe)[name])) == recipe
    invalid = []
    for text, values in edges(space):
        try:
            TrainParams.model_validate(apply(recipe, values))
        except ValidationError:
            invalid.append(text)
    assert invalid == [f"{DROPOUT}: 1.0"]


def test_a_grid_has_every_value_of_every_parameter() -> None:
    space = parse(
        {
            "epochs": {"int": [1, 4]},
            "batch_size": {"int": [64, 256], "step": 64},
            "units": {"int": [1, 3], "log": True},
            "label_smoothing": {"float": [0, 0.3], "step": 0.1},
            "architecture": {"categorical": [COMPACT, FAST]},
        }
    )
    assert grid(space) == {
        "epochs": [1, 2, 3, 4],
        "batch_size": [64, 128, 192, 256],
        "units": [1, 2, 3],
        "label_smoothing": [0.0, 0.1, 0.2, 0.3],
        "architecture": ["compact", "fast"],
    }


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"x": {"float": [0, 1]}},
            "x is float [0.0, 1.0]: a grid needs steps; give it a step, or choices",
        ),
        (
            WRITTEN,
            f"{DROPOUT} is conditional, which a grid does not support; use another sampler",
        ),
        (
            {"x": {"int": [1, 1_000_000_000]}, "y": {"categorical": ["a", "b"]}},
            "a grid has 2,000,000,000 combinations (x 1,000,000,000, y 2), more than 100,000; widen a step, narrow",
        ),
    ],
)
def test_a_space_without_a_grid_says_why(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        grid(parse(written))


def test_a_space_shows_itself_in_the_words_of_params_yaml() -> None:
    space = parse(
        {"x": {"float": [0, 1], "step": 0.5}, "n": {"int": [1, 9], "log": True}, "c": {"categorical": [None, 1]}}
    )
    assert [str(domain) for domain in space.values()] == [
        "float [0.0, 1.0] in steps of 0.5",
        "int [1, 9] log",
        "null, 1",
    ]


# Any space, but no two scalars that Python calls equal and YAML does not (1, 1.0, true): a choice may not have both.
LETTERS = st.text("abcd", min_size=1, max_size=2)
SCALARS = st.none() | st.integers(-9, 9) | st.floats(0.001, 0.999) | LETTERS


@st.composite
def ranges(draw_from: st.DrawFn) -> dict[str, Any]:
    kind = draw_from(st.sampled_from(["float", "int", "float log", "int log", "float step", "int step"]))
    low, count, step = (draw_from(st.integers(*ends)) for ends in ((-50, 50), (1, 20), (1, 7)))
    scale = 1 if kind.startswith("int") else draw_from(st.sampled_from([1, 10, 1000]))
    low = abs(low) + 1 if "log" in kind else low
    ends = [low, low + count * step] if scale == 1 else [low / scale, (low + count * step) / scale]
    more: dict[str, Any] = {"log": True} if "log" in kind else {}
    if "step" in kind:
        more = {"step": step if scale == 1 else step / scale}
    return {kind.split()[0]: ends, **more}


def choices(contents: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def of(options: list[Any]) -> dict[str, Any]:
        distinct = [option for place, option in enumerate(options) if option not in options[:place]]
        return {"categorical": [*distinct, "one", "other"]}

    return st.lists(contents, max_size=3).map(of)


def holding(contents: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    mappings = st.dictionaries(LETTERS | st.just("name"), contents, max_size=3)
    return mappings | st.lists(contents, max_size=3) | choices(mappings | st.lists(contents, max_size=3))


CONTENTS = st.recursive(SCALARS | ranges() | choices(SCALARS), holding, max_leaves=8)
KEYS = st.sampled_from(["a", "b.c", "b.d", "e.f.g", "e.f.h", "e.i"])
SPACES = st.dictionaries(KEYS, ranges() | choices(CONTENTS), max_size=4).map(parse)


def suggesting(data: st.DataObject, asked: dict[str, Any]) -> Callable[[str, Domain], Any]:
    """What draws any value of a domain; asked gets what was drawn, by name."""

    def suggest(name: str, domain: Domain) -> Any:
        if isinstance(domain, Categorical):
            value = data.draw(st.sampled_from(domain.labels))
        elif domain.step is not None:
            n_steps = round((domain.high - domain.low) / domain.step)
            value = min(domain.low + data.draw(st.integers(0, n_steps)) * domain.step, domain.high)
        elif domain.integer:
            value = data.draw(st.integers(int(domain.low), int(domain.high)))
        else:
            value = data.draw(st.floats(domain.low, domain.high))
        assert name not in asked, "asked for once"
        asked[name] = value
        return value

    return suggest


def recipe_of(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe that has these values at their dotted keys, and others."""
    recipe: dict[str, Any] = {"seed": 7, "b": {"other": [1, {"x": None}]}}
    for key, value in values.items():
        section = recipe
        *sections, name = key.split(".")
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = copy.deepcopy(value)
    return recipe


@settings(deadline=None)
@given(space=SPACES, data=st.data())
def test_of_any_space_a_recipe_gets_exactly_what_was_drawn(space: Space, data: st.DataObject) -> None:
    recipe = recipe_of(dict.fromkeys(space))
    asked: dict[str, Any] = {}
    values = draw(space, suggesting(data, asked))
    applied = apply(recipe, values)
    assert list(values) == list(space)
    assert {key: value_at(applied, key) for key in space} == values
    assert apply(applied, dict.fromkeys(space)) == recipe, "and nothing else changed"
    assert asked.keys() <= domains(space).keys()
    for key, domain in space.items():
        if isinstance(domain, Range):
            assert values[key] == asked[key]


@settings(deadline=None)
@given(space=SPACES, data=st.data())
def test_of_any_space_the_initial_values_draw_the_recipe_itself(space: Space, data: st.DataObject) -> None:
    recipe = recipe_of(draw(space, suggesting(data, {})))
    values = initial(space, recipe)
    assert apply(recipe, draw(space, taking(values))) == recipe
    assert not values, "no name that draw does not ask for"


@settings(deadline=None)
@given(space=SPACES)
def test_of_any_space_the_edges_lie_in_it_and_change_one_key(space: Space) -> None:
    found = list(edges(space))
    whole = [text for text, _ in found if not text.endswith("...")]  # two long labels may begin alike
    assert len(set(whole)) == len(whole)
    low = {key: domain.low if isinstance(domain, Range) else None for key, domain in space.items()}
    for _, values in found:
        (key,) = values
        initial({key: space[key]}, apply(recipe_of(low), values))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(space=SPACES, data=st.data())
def test_of_any_space_what_was_drawn_is_read_back_from_best_yaml(
    tmp_path: Path, space: Space, data: st.DataObject
) -> None:
    values = draw(space, suggesting(data, {}))
    write(tmp_path / "best.yaml", values, comment="written by tune")
    assert repr(read(tmp_path / "best.yaml")) == repr(values), "types and order too"
