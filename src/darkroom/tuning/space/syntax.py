"""The syntax of search spaces in params.yaml, and its errors.

A space maps dotted keys of `train.<candidate>` to ranges and choices:

    learning_rate: {float: [0.0001, 0.1], log: true}
    batch_size: {int: [64, 512], step: 64}
    optimizer.name: {categorical: [sgd, adam]}
    architecture:
      categorical:
        - {name: compact, filters: [32, 64, 128], stem_kernel_size: 5, head: flatten, dropout: {float: [0.0, 0.5]}}
        - {name: fast, filters: [32, 64], whitening_kernel_size: 2, activation: gelu}
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from darkroom.errors import ParamsError
from darkroom.project.text import did_you_mean
from darkroom.training.overrides import check_apart, shown
from darkroom.tuning.space.domains import (
    Categorical,
    Domain,
    Option,
    Range,
    Scalar,
    Space,
    exactly,
    is_number,
    parameters,
    steps_between,
)

KINDS = {"float": ("log", "step"), "int": ("log", "step"), "categorical": ()}  # with their optional keys
NOT_SEARCHED = "set a fixed value in train instead"


def parse(written: Any) -> Space:
    """Parse a section of tune.space; a mapping without keys is an empty space.

    Raises:
        ParamsError: the section is invalid; the caller adds its name to the message.

    >>> parse({"learning_rate": {"float": [0.01, 0.5], "log": True}})
    {'learning_rate': Range(low=0.01, high=0.5, integer=False, log=True, step=None)}
    """
    if not isinstance(written, Mapping):
        example = "{learning_rate: {float: [0.0001, 0.1], log: true}}"
        raise ParamsError(f"found {shown(written)}, expected a mapping of train's keys to ranges, such as {example}")
    for key in written:
        if not isinstance(key, str):
            raise ParamsError(f"{shown(key)} is not a key of train, expected text")
    check_apart(written)
    space = {key: _domain(key, value) for key, value in written.items()}
    names = Counter(name for name, _ in parameters(space.items()))
    if repeated := [name for name, count in names.items() if count > 1]:
        raise ParamsError(f"two parameters are called {repeated[0]!r}; remove the dotted key inside the choice")
    return space


def _domain(name: str, written: Any) -> Domain:
    """Parse the domain of one parameter."""
    if not isinstance(written, Mapping):
        raise ParamsError(f"{name} is {shown(written)}: expected a mapping with one of the keys {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS if kind in written]
    if len(kinds) != 1:
        keys = ", ".join(map(shown, written)) or "none"
        hints = (did_you_mean(key, KINDS) for key in written if isinstance(key, str) and not kinds)
        hint = next(filter(None, hints), "")
        raise ParamsError(f"{name} has the keys {keys}: expected exactly one of {', '.join(KINDS)}{hint}")
    kind = kinds[0]
    for key in written:
        if key not in (kind, *KINDS[kind]):
            known = ", ".join(KINDS[kind]) or "none"
            raise ParamsError(
                f"{name} has an unknown key {shown(key)!r}; known keys beside {kind}: {known}"
                f"{did_you_mean(str(key), KINDS[kind])}"
            )
    return _choice(name, written[kind]) if kind == "categorical" else _range(name, kind, written)


def _range(name: str, kind: str, written: Mapping[str, Any]) -> Range:
    ends, integer, log = written[kind], kind == "int", written.get("log", False)
    what = f"{name} is {kind} {shown(ends)}"
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        raise ParamsError(f"{what}: expected [low, high], two finite numbers")
    if integer and not all(isinstance(end, int) for end in ends):
        raise ParamsError(f"{what}: expected two integers; use float for other numbers")
    low, high = ends if integer else map(float, ends)
    if low >= high:
        advice = "swap them" if low > high else NOT_SEARCHED
        raise ParamsError(f"{what}: the first number must be the lower one; {advice}")
    if not isinstance(log, bool):
        raise ParamsError(f"{name} has log: {shown(log)}: expected true or false")
    if log and low <= 0:
        raise ParamsError(f"{what} with log: a logarithmic range must start above 0; raise the low end, or delete log")
    step = _step(name, written["step"], low=low, high=high, integer=integer) if "step" in written else None
    if log and step is not None:
        raise ParamsError(f"{name} has both log and step; delete one")
    return Range(low, high, integer=integer, log=log, step=step)


def _step(name: str, step: Any, *, low: float, high: float, integer: bool) -> float:
    what = f"{name} has step: {shown(step)}"
    if not is_number(step) or (integer and not isinstance(step, int)):
        raise ParamsError(f"{what}: expected {'an integer' if integer else 'a number'}")
    if step <= 0 or (n_steps := steps_between(low, high, step)) < 1:
        raise ParamsError(f"{what}: expected more than 0, and at most the range, which is {high - low:g}")
    if n_steps.denominator != 1:
        below, above = (exactly(low) + exactly(step) * count for count in (int(n_steps), int(n_steps) + 1))
        end = int if integer else float
        raise ParamsError(
            f"{what}: steps from {low} do not reach {high}; end the range at {end(below)} or {end(above)}"
        )
    return step if integer else float(step)


def _choice(name: str, options: Any) -> Categorical:
    if not isinstance(options, list):
        raise ParamsError(f"{name} is categorical {shown(options)}: expected a list of choices")
    if len(options) < 2:
        found = f"one choice, {shown(options[0])}" if options else "no choices"
        raise ParamsError(f"{name} has {found}: expected at least two; {NOT_SEARCHED}")
    labels = _labels(options)
    for place, (option, label) in enumerate(zip(options, labels, strict=True)):
        for other, other_label in zip(options[:place], labels[:place], strict=True):
            if option == other or label == other_label:  # a sampler does not distinguish 1, 1.0 and true
                equal = f"{shown(other)} and {shown(option)}"
                raise ParamsError(f"{name} has the choices {equal}, which are equal; delete one")
    pairs = zip(labels, options, strict=True)
    return Categorical(tuple(Option(label, _value(f"{name}[{label}]", option)) for label, option in pairs))


def _labels(options: list[Any]) -> list[Scalar]:
    """Return the labels of options for a sampler: a scalar itself, the unique name of a mapping, or JSON."""
    names = [option.get("name") if isinstance(option, Mapping) else option for option in options]
    return [
        name
        if not isinstance(option, Mapping | list) or (isinstance(name, str) and names.count(name) == 1)
        else json.dumps(option, ensure_ascii=False, separators=(",", ":"), default=str)
        for option, name in zip(options, names, strict=True)
    ]


def _value(name: str, written: Any) -> Any:
    """Parse a value inside an option, which may contain domains."""
    if isinstance(written, Mapping):
        if any(kind in written for kind in KINDS):
            return _domain(name, written)
        for key in written:
            if not isinstance(key, str):
                raise ParamsError(f"{name} has the key {shown(key)}, expected text")
        return {key: _value(f"{name}.{key}", content) for key, content in written.items()}
    if isinstance(written, list):
        return [_value(f"{name}.{place}", item) for place, item in enumerate(written)]
    if not (written is None or isinstance(written, bool | str) or is_number(written)):
        raise ParamsError(f"{name} is {written!r}: expected null, true, false, text or a finite number")
    return written
