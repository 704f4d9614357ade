"""Load one section of params.yaml into its pydantic model, with errors that name the key."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from darkroom.errors import ParamsError

PARAMS_FILE = Path("params.yaml")  # DVC's own name for it


class Section(BaseModel):
    """Base of the params models: frozen, strict about types, and closed to unknown keys. No field has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ComputeParams(Section):
    """The section `compute`: how results are computed, never what they are. No stage reruns because of it."""

    backend: Literal["auto", "threading", "loky"]
    workers: Annotated[int, Field(ge=1)] | Literal["auto"]


SectionT = TypeVar("SectionT", bound=Section)


def load_section(name: str, model: type[SectionT]) -> SectionT:
    """Return the section `name` ("augment", "train.cnn") of ./params.yaml as its model.

    Raises:
        ParamsError: the file or section is missing or not a mapping, or a key is unknown, missing, mistyped or out of
            range; the message names the key and what is known or expected.
    """
    values: Any = read_params(PARAMS_FILE)
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            known = ", ".join(sorted(values)) if isinstance(values, dict) and values else "none"
            raise ParamsError(f"{PARAMS_FILE}: there is no section {name!r}; sections here: {known}")
        values = values[part]
    if not isinstance(values, dict):
        raise ParamsError(f"{PARAMS_FILE}: {name} is {values!r}, expected a mapping of keys to values")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{PARAMS_FILE}: {explain(name, model, error)}") from None


def read_params(path: Path) -> dict[str, Any]:
    """Return the whole params file as a plain dict.

    Raises:
        ParamsError: the file is missing, not YAML, or not a mapping.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: there is no such file; `darkroom use mnist` writes one from the presets") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected sections (download, preprocess, ...), found {type(values).__name__}")
    return values


def explain(section: str, model: type[BaseModel], error: ValidationError) -> str:
    """Return the first problem of a validation error as one sentence; unknown keys come first, they cause the rest."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    *parents, key = [str(part) for part in first["loc"]] or [""]
    where = ".".join([section, *parents])
    if first["type"] == "extra_forbidden":
        known = f"; known keys: {', '.join(sorted(model.model_fields))}" if not parents else ""
        return f"{where} has an unknown key {key!r}{known}"
    if first["type"] == "missing":
        return f"{where} lacks the key {key!r}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(filter(None, [where, key]))} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def digest(values: Any) -> str:
    """Return the sha256 of values (anything JSON can hold) in canonical JSON: equal values give equal digests."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
