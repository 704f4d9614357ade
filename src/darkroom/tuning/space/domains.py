"""The search space of one candidate: domains for a sampler, and the overrides that result from its draws.

A space maps dotted keys of `train.<candidate>` to domains; syntax.py parses it.

Domains inside an option of a choice are conditional: sampled only when that option is chosen. The sampler's name of a
parameter is the dotted key, or `architecture[compact].dropout` inside a choice. Its values are numbers and labels of
choices.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from darkroom.errors import ParamsError
from darkroom.training.overrides import shown, value_at

GREATEST_GRID = 100_000  # combinations; more are a mistake in params.yaml and would fill the memory

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Range:
    """The numbers from low to high, inclusive; with a step, only whole steps above low."""

    low: float
    high: float
    integer: bool
    log: bool = False
    step: float | None = None

    def __str__(self) -> str:
        steps = f" in steps of {self.step}" if self.step is not None else ""
        return f"{'int' if self.integer else 'float'} [{self.low}, {self.high}]{' log' if self.log else ''}{steps}"


@dataclass(frozen=True)
class Option:
    """One of the values of a Categorical.

    Attributes:
        label: for the sampler: a scalar itself, the name of a mapping, or JSON.
        value: for the params: scalars, lists and mappings, with a Domain for each drawn part.
    """

    label: Scalar
    value: Any

    def inside(self, name: str) -> str:
        """Return the prefix of the names of parameters inside this option of the choice `name`."""
        return f"{name}[{self.label}]"


@dataclass(frozen=True)
class Categorical:
    """One of at least two options; their labels differ."""

    options: tuple[Option, ...]

    def __str__(self) -> str:
        return ", ".join(map(shown, self.labels))

    @property
    def labels(self) -> list[Scalar]:
        """The labels, in the order of params.yaml."""
        return [option.label for option in self.options]


Domain = Range | Categorical
Space = Mapping[str, Domain]  # by dotted key of the train section
Suggest = Callable[[str, Domain], Any]  # of a parameter's name and domain; returns a number or the label of an option


def domains(space: Space) -> dict[str, Domain]:
    """Return all parameters by name, each before those inside its choices."""
    return dict(parameters(space.items()))


def keys(space: Space) -> Iterator[str]:
    """Yield the dotted keys of the params that are drawn, including those in options of choices."""
    for key, domain in space.items():
        yield from _keys_of(domain, key)


def initial(space: Space, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers and labels for which `draw` gives the params' own values, by parameter name.

    Raises:
        ParamsError: the params lack a key, or have a value outside the space.
    """
    found: dict[str, Any] = {}
    for key, domain in space.items():
        found |= _drawn_as(domain, value_at(recipe, key), key)
    return found


def draw(space: Space, suggest: Suggest) -> dict[str, Any]:
    """Return overrides (see overrides.apply) for params; asks for parameters in the order of params.yaml.

    Args:
        space: of the params.
        suggest: called once for every required parameter: those inside an option only if it is chosen.

    Raises:
        ParamsError: suggest returned an unknown label.
    """
    return {key: _filled(domain, key, suggest) for key, domain in space.items()}


def edges(space: Space) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield overrides in which one parameter is at an end of its range or at one of its options.

    If all edges give valid recipes, so do all draws, as far as keys are checked separately, so mistakes are found
    before anything is trained. Other parameters inside a choice are at their low end or first option.

    Yields:
        "name: value" of that parameter, and the overrides of the one key that it belongs to.
    """
    for key, domain in space.items():
        for text, pinned in _pinned([(key, domain)], {}):
            yield text, draw({key: domain}, _suggest_pinned(pinned))


def is_conditional(space: Space) -> bool:
    """Return whether some parameters are inside options of a choice."""
    return len(domains(space)) > len(space)


def grid(space: Space) -> dict[str, list[Any]]:
    """Return all values of every parameter, for a sampler that tries all combinations.

    Raises:
        ParamsError: a float range without a step, a conditional space, or more than GREATEST_GRID combinations.
    """
    if is_conditional(space):
        inside = next(name for name in domains(space) if name not in space)
        raise ParamsError(f"{inside} is conditional, which a grid does not support; use another sampler")
    sizes = {key: _n_values(key, domain) for key, domain in space.items()}
    if (total := math.prod(sizes.values())) > GREATEST_GRID:
        counts = ", ".join(f"{key} {size:,}" for key, size in sizes.items())
        raise ParamsError(
            f"a grid has {total:,} combinations ({counts}), more than {GREATEST_GRID:,}; widen a step, narrow a range "
            "or use another sampler"
        )
    return {key: _values(domain, sizes[key]) for key, domain in space.items()}


def parameters(named: Iterable[tuple[str, Domain]]) -> Iterator[tuple[str, Domain]]:
    """Yield each named domain, followed by those inside its options."""
    for name, domain in named:
        yield name, domain
        if isinstance(domain, Categorical):
            for option in domain.options:
                yield from parameters(_domains_in(option.value, option.inside(name)))


def _domains_in(value: Any, name: str) -> Iterator[tuple[str, Domain]]:
    """Yield the domains in a value of an option, but not those inside their options."""
    if isinstance(value, Range | Categorical):
        yield name, value
    for part, content in _parts(value):
        yield from _domains_in(content, f"{name}.{part}")


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """Return the items of a mapping, the positions and items of a list, and nothing for other values."""
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def _keys_of(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, Range | Categorical):
        yield key
    for option in value.options if isinstance(value, Categorical) else ():
        yield from _keys_of(option.value, key)
    for part, content in _parts(value):
        yield from _keys_of(content, f"{key}.{part}")


def _filled(value: Any, name: str, suggest: Suggest) -> Any:
    """Return a copy of a domain or of an option's value, with drawn values in place of domains."""
    if isinstance(value, Range):
        number = suggest(name, value)
        return int(number) if value.integer else float(number)
    if isinstance(value, Categorical):
        label = suggest(name, value)
        for option in value.options:
            if option.label == label:
                return _filled(option.value, option.inside(name), suggest)
        raise ParamsError(f"{name} allows {value}, but {shown(label)} was drawn, from a different space")
    filled = [(part, _filled(content, f"{name}.{part}", suggest)) for part, content in _parts(value)]
    if isinstance(value, Mapping):
        return dict(filled)
    return [content for _, content in filled] if isinstance(value, list) else value


def _drawn_as(expected: Any, value: Any, name: str) -> dict[str, Any]:
    """Return the numbers and labels for which _filled gives this value.

    Raises:
        ParamsError: there are none.
    """
    if isinstance(expected, Range):
        return {name: _number_in(expected, value, name)}
    if isinstance(expected, Categorical):
        return _option_of(expected, value, name)
    parts, found = dict(_parts(expected)), dict(_parts(value))
    if isinstance(expected, Mapping) and isinstance(value, Mapping) and parts.keys() != found.keys():
        allowed, has = (f"the keys {', '.join(map(str, keys)) or 'none'}" for keys in (parts, found))
        raise ParamsError(f"{_disagreement(allowed, has, name)}; make them equal")
    if parts.keys() != found.keys() or (not parts and value != expected):
        raise ParamsError(f"{_disagreement(expected, value, name)}; make them equal")
    drawn: dict[str, Any] = {}
    for part, content in parts.items():
        drawn |= _drawn_as(content, found[part], f"{name}.{part}")
    return drawn


def _number_in(domain: Range, value: Any, name: str) -> int | float:
    """Return the params' number in the type of the range."""
    disagreement = _disagreement(domain, value, name)
    if not is_number(value) or (domain.integer and not isinstance(value, int)):
        raise ParamsError(f"{disagreement}; set such a number there")
    if not domain.low <= value <= domain.high:
        raise ParamsError(f"{disagreement}; widen the range")
    steps = (value - domain.low) / (domain.step or 1)
    if domain.step is not None and not math.isclose(steps, round(steps), rel_tol=0, abs_tol=1e-8):
        raise ParamsError(f"{disagreement}; change the step or the value there")
    return int(value) if domain.integer else float(value)


def _option_of(choice: Categorical, value: Any, name: str) -> dict[str, Any]:
    """Return the label of the option that equals the params' value, and the draws inside it."""
    misfits = []
    for option in choice.options:
        try:
            return {name: option.label} | _drawn_as(option.value, value, option.inside(name))
        except ParamsError as error:
            mappings = isinstance(value, Mapping) and isinstance(option.value, Mapping)
            if mappings and value.get("name") == option.value.get("name"):
                misfits.append(error)
    if len(misfits) == 1:  # the difference within the option of that name is more helpful
        raise misfits[0]
    raise ParamsError(f"{_disagreement(choice, value, name)}; add it to the choices")


def _disagreement(expected: Any, value: Any, name: str) -> str:
    allowed = str(expected) if isinstance(expected, Range | Categorical) else shown(expected)
    return f"{name} allows {allowed}, but train, which is trial 0, has {shown(value)}"


def _ends(domain: Domain) -> list[Any]:
    """Return both ends of a range, or the labels of a choice."""
    return domain.labels if isinstance(domain, Categorical) else [domain.low, domain.high]


def _pinned(named: Iterable[tuple[str, Domain]], outer: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield "name: value" for each end of each domain, and the names and values of the parameters that lead there."""
    for name, domain in named:
        for place, end in enumerate(_ends(domain)):
            pinned = {**outer, name: end}
            if place or not outer:  # the first ends inside an option belong to the option's own edge
                yield f"{name}: {shown(end)}", pinned
            if isinstance(domain, Categorical):
                option = domain.options[place]
                yield from _pinned(_domains_in(option.value, option.inside(name)), pinned)


def _suggest_pinned(pinned: Mapping[str, Any]) -> Suggest:
    return lambda name, domain: pinned[name] if name in pinned else _ends(domain)[0]


def _n_values(name: str, domain: Domain) -> int:
    if isinstance(domain, Categorical):
        return len(domain.options)
    if domain.step is None and not domain.integer:
        raise ParamsError(f"{name} is {domain}: a grid needs steps; give it a step, or choices")
    return int(steps_between(domain.low, domain.high, domain.step or 1)) + 1


def _values(domain: Domain, count: int) -> list[Any]:
    if isinstance(domain, Categorical):
        return domain.labels
    low, step = exactly(domain.low), exactly(domain.step or 1)
    return [int(value) if domain.integer else float(value) for value in (low + place * step for place in range(count))]


def steps_between(low: float, high: float, step: float) -> Fraction:
    """Return the exact number of steps from low to high, in decimals, because in binary 0.3 is not 3 times 0.1."""
    return (exactly(high) - exactly(low)) / exactly(step)


def exactly(number: float) -> Fraction:
    return Fraction(repr(number))


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max
