import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from darkroom.errors import ParamsError
from darkroom.tuning.space.domains import Categorical, Range
from darkroom.tuning.space.syntax import parse


def from_yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_params_yaml_becomes_ranges_and_choices_in_order() -> None:
    space = parse(
        from_yaml("""
            learning_rate: {float: [1e-4, 1], log: true}
            batch_size: {int: [64, 512], step: 32}
            label_smoothing: {float: [0, 0.2], step: 0.1, log: false}
            optimizer.name: {categorical: [sgd, adam]}
        """)
    )
    assert space == {
        "learning_rate": Range(0.0001, 1.0, integer=False, log=True),
        "batch_size": Range(64, 512, integer=True, step=32),
        "label_smoothing": Range(0.0, 0.2, integer=False, step=0.1),
        "optimizer.name": space["optimizer.name"],
    }
    assert list(space) == ["learning_rate", "batch_size", "label_smoothing", "optimizer.name"]
    assert isinstance(space["learning_rate"], Range)
    assert type(space["learning_rate"].high) is float, "the 1 of a float range is a float"
    assert isinstance(space["batch_size"], Range)
    assert type(space["batch_size"].high) is int
    assert isinstance(space["optimizer.name"], Categorical)
    assert space["optimizer.name"].labels == ["sgd", "adam"]


def labels(options: list[Any]) -> list[Any]:
    choice = parse({"x": {"categorical": options}})["x"]
    assert isinstance(choice, Categorical)
    return choice.labels


def test_a_label_is_the_scalar_the_name_or_json() -> None:
    assert labels([None, True, 2, 0.5, "a"]) == [None, True, 2, 0.5, "a"]
    assert labels([{"name": "a", "b": 1}, {"name": "c"}, [1, "x"]]) == ["a", "c", '[1,"x"]']
    assert labels([{"name": "a", "b": 1}, {"name": "a", "b": 2}]) == ['{"name":"a","b":1}', '{"name":"a","b":2}']
    assert labels(["a", {"name": "a"}]) == ["a", '{"name":"a"}'], "the name is taken"
    assert labels([{"name": 3}, {"größe": 1}]) == ['{"name":3}', '{"größe":1}']


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("3", "found 3, expected a mapping of train's keys to ranges, such as {learning_rate: {float: [0.0001, 0.1]"),
        ("", "found null, expected a mapping"),
        ("[a]", 'found ["a"], expected a mapping'),
        ("3: {int: [1, 2]}", "3 is not a key of train, expected text"),
        ("a: [1, 2]", "a is [1, 2]: expected a mapping with one of the keys float, int, categorical"),
        ("a:", "a is null: expected a mapping with one of the keys float, int, categorical"),
        ("a: {}", "a has the keys none: expected exactly one of float, int, categorical"),
        (
            "a: {log: true, flaot: [1, 2]}",
            "a has the keys log, flaot: expected exactly one of float, int, categorical; did you mean 'float'?",
        ),
        ("a: {1: 2}", "a has the keys 1: expected exactly one of float, int, categorical"),
        (
            "a: {int: [1, 2], float: [1, 2]}",
            "a has the keys int, float: expected exactly one of float, int, categorical",
        ),
        (
            "a: {float: [1, 2], lgo: true}",
            "a has an unknown key 'lgo'; known keys beside float: log, step; did you mean 'log'?",
        ),
        ("a: {int: [1, 2], 3: 4}", "a has an unknown key '3'; known keys beside int: log, step"),
        (
            "a: {categorical: [1, 2], log: true}",
            "a has an unknown key 'log'; known keys beside categorical: none",
        ),
        ("a: {float: 0.1}", "a is float 0.1: expected [low, high], two finite numbers"),
        ("a: {float: [0.1]}", "a is float [0.1]: expected [low, high], two finite numbers"),
        ("a: {float: [0, 1, 2]}", "a is float [0, 1, 2]: expected [low, high], two finite numbers"),
        ("a: {float: ['0', 1]}", 'a is float ["0", 1]: expected [low, high], two finite numbers'),
        ("a: {int: [false, true]}", "a is int [false, true]: expected [low, high], two finite numbers"),
        ("a: {float: [0, .inf]}", "a is float [0, Infinity]: expected [low, high], two finite numbers"),
        ("a: {float: [.nan, 1]}", "a is float [NaN, 1]: expected [low, high], two finite numbers"),
        (f"a: {{float: [0, 1{'0' * 400}]}}", "expected [low, high], two finite numbers"),
        ("a: {int: [1, 2.5]}", "a is int [1, 2.5]: expected two integers; use float for other numbers"),
        ("a: {int: [1.0, 2.0]}", "a is int [1.0, 2.0]: expected two integers"),
        (
            "learning_rate: {float: [0.1, 0.1]}",
            "learning_rate is float [0.1, 0.1]: the first number must be the lower one; "
            "set a fixed value in train instead",
        ),
        ("a: {int: [5, 2]}", "a is int [5, 2]: the first number must be the lower one; swap them"),
        (
            "a: {float: [0.0, 1.0], log: true}",
            "a is float [0.0, 1.0] with log: a logarithmic range must start above 0; raise the low end, or delete log",
        ),
        ("a: {int: [-1, 9], log: true}", "a is int [-1, 9] with log: a logarithmic range must start above 0"),
        ("a: {float: [1, 9], log: 1}", "a has log: 1: expected true or false"),
        ("a: {int: [1, 9], log: true, step: 2}", "a has both log and step; delete one"),
        ("a: {int: [1, 9], step: 0}", "a has step: 0: expected more than 0, and at most the range, which is 8"),
        ("a: {float: [0, 1], step: -0.1}", "a has step: -0.1: expected more than 0, and at most the range, which is 1"),
        ("a: {int: [1, 9], step: 9}", "a has step: 9: expected more than 0, and at most the range, which is 8"),
        ("a: {int: [1, 9], step: 0.5}", "a has step: 0.5: expected an integer"),
        ("a: {int: [1, 9], step: true}", "a has step: true: expected an integer"),
        ("a: {float: [1, 9], step: null}", "a has step: null: expected a number"),
        ("a: {float: [1, 9], step: .nan}", "a has step: NaN: expected a number"),
        (
            "a: {int: [64, 512], step: 30}",
            "steps from 64 do not reach 512; end the range at 484 or 514",
        ),
        (
            "a: {float: [0.1, 0.35], step: 0.1}",
            "a has step: 0.1: steps from 0.1 do not reach 0.35; end the range at 0.3 or 0.4",
        ),
        ("a: {categorical: sgd}", "a is categorical sgd: expected a list of choices"),
        ("a: {categorical: {b: 1, c: 2}}", 'a is categorical {"b": 1, "c": 2}: expected a list of choices'),
        ("a: {categorical: []}", "a has no choices: expected at least two; set a fixed value in train instead"),
        (
            "a: {categorical: [sgd]}",
            "a has one choice, sgd: expected at least two; set a fixed value in train instead",
        ),
        ("a: {categorical: [sgd, adam, sgd]}", "a has the choices sgd and sgd, which are equal; delete one"),
        ("a: {categorical: [1, true]}", "a has the choices 1 and true, which are equal; delete one"),
        ("a: {categorical: [[1], [1.0]]}", "a has the choices [1] and [1.0], which are equal; delete one"),
        ("a: {categorical: [[1], '[1]']}", "a has the choices [1] and [1], which are equal; delete one"),
        ("a: {categorical: [{b: 1, c: 2}, {c: 2, b: 1}]}", "which are equal; delete one"),
        ("a: {categorical: [1, .nan]}", "a[nan] is nan: expected null, true, false, text or a finite number"),
        (
            "a: {categorical: [b, 2026-01-01]}",
            "is datetime.date(2026, 1, 1): expected null, true, false, text or a finite number",
        ),
        ("a: {categorical: [{name: b, 3: 4}, c]}", "a[b] has the key 3, expected text"),
        ("a: {categorical: [{name: b, c: {float: [2, 1]}}, d]}", "a[b].c is float [2, 1]: the first number must be"),
        ("a: {categorical: [{name: b, c: [{int: [1, 2], lg: 1}]}, d]}", "a[b].c.0 has an unknown key 'lg'"),
        ("a: {categorical: [{name: b, c: {categorical: [1]}}, d]}", "a[b].c has one choice, 1: expected at least two"),
        (
            "a: {categorical: [b, c]}\na.d: {int: [1, 2]}",
            "both 'a' and 'a.d', a part of it, are given; give 'd' inside 'a' and delete 'a.d'",
        ),
        (
            "a: {categorical: [{name: b, c.d: {int: [1, 2]}, c: {d: {int: [1, 2]}}}, e]}",
            "two parameters are called 'a[b].c.d'; remove the dotted key inside the choice",
        ),
    ],
)
def test_a_wrong_space_is_refused_with_the_key_and_what_to_write(written: str, message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)) as caught:
        parse(from_yaml(written))
    assert "\n" not in str(caught.value)
