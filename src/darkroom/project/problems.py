"""Turn pydantic's validation errors of params and of the package's tables into one sentence."""

import re
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from darkroom.project.text import did_you_mean


@dataclass
class _Mapping:
    """A mapping with unknown or missing keys, and the model that it should have followed, if known."""

    owner: type[BaseModel] | None
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def sentence(self, where: str) -> str:
        said = []
        if self.unknown:
            said.append(f"has {_named('unknown key', self.unknown, article='an ')}")
        if self.missing:
            said.append(f"lacks {_named('key', self.missing, article='the ')}")
        known = ""
        if self.owner and (self.unknown or _is_tagged(self.owner)):
            known = f"; known keys: {_known(self.owner)}"
        return f"{where} {' and '.join(said)}{known}"


def explain(section: str, model: type[BaseModel], error: ValidationError) -> str:
    """Return all problems of a validation error as one sentence.

    Unknown and missing keys come first, because they cause other errors. Where a name decides which keys exist, such as
    that of an architecture, the known keys are listed with their types.
    """
    mappings: dict[str, _Mapping] = {}
    values: dict[str, list[str]] = {}
    for problem in error.errors():
        keys, owner = _keys(model, problem["loc"])
        *parents, key = keys or [""]
        where, whole = ".".join([section, *parents]), ".".join([section, *keys])
        kind = problem["type"]
        if kind == "extra_forbidden":
            mappings.setdefault(where, _Mapping(owner)).unknown.append(key)
        elif kind == "missing":
            mappings.setdefault(where, _Mapping(owner)).missing.append(key)
        elif kind == "union_tag_not_found":
            mappings.setdefault(whole, _Mapping(None)).missing.append(_tag(problem["ctx"]))
        elif kind == "union_tag_invalid":
            tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
            near = did_you_mean(tag, re.findall(r"\w+", known))
            values[whole] = [f"{whole}.{_tag(problem['ctx'])} is {tag!r}: ", f"expected one of {known}{near}"]
        else:
            values.setdefault(whole, [f"{whole} is {shortened(problem['input'])}: "]).append(problem["msg"])
    first = sorted(mappings, key=lambda where: not mappings[where].unknown)
    said = [mappings[where].sentence(where) for where in first]
    # Where a value may be a mapping or something else, the errors of the mapping are enough.
    return "; ".join(
        said + [f"{start}{_joined(rest)}" for whole, (start, *rest) in values.items() if whole not in first]
    )


def _tag(context: dict[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")


def _named(noun: str, keys: list[str], *, article: str) -> str:
    """Return "an unknown key 'a'" or "the unknown keys 'a', 'b'"."""
    names = ", ".join(map(repr, keys))
    return f"{article}{noun} {names}" if len(keys) == 1 else f"the {noun}s {names}"


def _known(owner: type[BaseModel]) -> str:
    if not _is_tagged(owner):
        return ", ".join(sorted(owner.model_fields))
    types = owner.model_json_schema()["properties"]
    return ", ".join(f"{name} ({_type(types[name])})" for name in owner.model_fields)


def _is_tagged(owner: type[BaseModel]) -> bool:
    """Return whether a key of the model has only one possible value, which distinguishes it from its siblings."""
    kinds = [known.annotation for known in owner.model_fields.values()]
    return any(get_origin(kind) is Literal and len(get_args(kind)) == 1 for kind in kinds)


def _type(schema: dict[str, Any]) -> str:
    """Return a type of JSON Schema in words, without its bounds."""
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(map(_type, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    kind = str(schema.get("type", "mapping"))
    return {"boolean": "true | false", "string": "text"}.get(kind, kind)


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """Return the parts of a location that are keys of the file, and the model that has the last key, if known.

    Where a value may be of several types, pydantic inserts a part that names the type it tried.
    """
    found: list[str] = []
    kind: Any = model
    owner: type[BaseModel] | None = None
    for part in loc:
        options = _options(kind)
        if len(options) > 1:
            tried = [option for option in options if _is_called(option, str(part))]
            kind = tried[0] if tried else None
            continue
        kind = options[0]
        owner = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        found.append(str(part))
        if owner:
            known = owner.model_fields.get(str(part))
            kind = known.annotation if known else None
        else:  # of list[X] and dict[str, X] the content
            kind = (get_args(kind) or (None,))[-1]
    return found, owner


def _options(kind: Any) -> list[Any]:
    """Return the types that an annotation allows, except None: pydantic adds no part for `X | None`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        return options if len(options) > 1 else _options(options[0])
    return [kind]


def _is_called(option: Any, part: str) -> bool:
    """Return whether the part names this model, by its class or by its tag."""
    kind = _options(option)[0]
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return False
    return kind.__name__ == part or any(
        get_origin(known.annotation) is Literal and part in get_args(known.annotation)
        for known in kind.model_fields.values()
    )


def _joined(messages: list[str]) -> str:
    """Return one message as it is, several as alternatives: "expected a valid integer or 'auto'"."""
    messages = [_in_our_words(message.removeprefix("Value error, ")) for message in dict.fromkeys(messages)]
    if len(messages) == 1:
        return messages[0][0].lower() + messages[0][1:]
    return "expected " + " or ".join(message.removeprefix("Input should be ") for message in messages)


def _in_our_words(message: str) -> str:
    """Return a message with "mapping" in place of pydantic's words, which name Python classes."""
    kinds = r"a valid dictionary( or instance of \w+| or object to extract fields from)?"
    return re.sub(kinds, "a mapping of keys to values", message)


def shortened(value: Any) -> str:
    """Return the repr of a value, cut after 200 characters."""
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
