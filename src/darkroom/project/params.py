"""Load one section of params.yaml into its pydantic model, with errors that name the key."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from darkroom.errors import ParamsError
from darkroom.project.problems import explain, shortened
from darkroom.project.text import did_you_mean

PARAMS_FILE = Path("params.yaml")  # DVC's own name for it

# The list of candidates, the sections of the stages (`check` reads all and has none), and compute.
SECTIONS = (  # in the order of the flow
    *("candidates", "download", "preprocess", "augment", "embed", "tune", "train", "evaluate", "promote"),
    *("retrain", "compute"),
)

EXPECTED_CANDIDATES = "expected a list of sections of train, such as [cnn]"


class Section(BaseModel):
    """Base of the params models: frozen, strict about types, and closed to unknown keys. No field has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ComputeParams(Section):
    """The section `compute`: execution settings, which affect no result; no stage reruns because of them."""

    backend: Literal["auto", "threading", "loky", "ray"]
    workers: Annotated[int, Field(ge=1)] | Literal["auto"]
    cluster: Annotated[str, Field(min_length=1)] | None
    device: Literal["auto", "cpu", "gpu"]

    @field_validator("cluster")
    @classmethod
    def _used(cls, cluster: str | None, info: ValidationInfo) -> str | None:
        backend = info.data.get("backend")
        if cluster is not None and backend in ("auto", "threading", "loky"):
            raise ValueError(f"expected null, because compute.backend {backend} works on this machine")
        return cluster


SectionT = TypeVar("SectionT", bound=Section)


def load_section(name: str, model: type[SectionT]) -> SectionT:
    """Return the section `name` ("augment", "train.cnn") of ./params.yaml as its model.

    Raises:
        ParamsError: the file or section is missing or not a mapping, another section is unknown, or a key is unknown,
            missing, mistyped or out of range; the message names the key and what is known or expected.
    """
    values: Any = _checked_params()
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            known = ", ".join(sorted(values)) if isinstance(values, dict) and values else "none"
            raise ParamsError(f"{PARAMS_FILE}: section {name!r} is missing; sections found: {known}")
        values = values[part]
    if not isinstance(values, dict):
        raise ParamsError(f"{PARAMS_FILE}: {name} is {values!r}, expected a mapping of keys to values")
    return validated(values, model, name=name, path=PARAMS_FILE)


def validated(values: object, model: type[SectionT], *, name: str, path: Path | str) -> SectionT:
    """Return a section of the params file `path` as its model.

    Raises:
        ParamsError: a key is unknown, missing, mistyped or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain(name, model, error)}") from None


@contextmanager
def in_section(name: str) -> Iterator[None]:
    """Prefix the ParamsErrors of functions that know nothing of params.yaml with the file and the section.

    Raises:
        ParamsError: the block raised one.
    """
    try:
        yield
    except ParamsError as error:
        raise ParamsError(f"{PARAMS_FILE}: {name}: {error}") from None


def load_candidates() -> list[str]:
    """Return `candidates` of ./params.yaml: the sections of train that are trained, evaluated and compared.

    Raises:
        ParamsError: it is missing, not a list of names, or empty, or names a candidate twice or without a section.
    """
    values = _checked_params()
    if "candidates" not in values:
        raise ParamsError(f"{PARAMS_FILE}: 'candidates' is missing: {EXPECTED_CANDIDATES}")
    return _candidates(values)


def _candidates(values: dict[str, Any]) -> list[str]:
    named, sections = values["candidates"], values.get("train")
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise ParamsError(f"{PARAMS_FILE}: candidates is {shortened(named)}: {EXPECTED_CANDIDATES}")
    known = [str(name) for name in sections] if isinstance(sections, dict) else []
    for name in named:
        if not re.fullmatch(r"[\w-]+", name):  # it names a directory of models/ and a stage of DVC
            raise ParamsError(f"{PARAMS_FILE}: candidates names {name!r}: expected only letters, digits, _ and -")
        if named.count(name) > 1:
            raise ParamsError(f"{PARAMS_FILE}: candidates names {name!r} twice; name each candidate once")
        if name not in known:
            raise ParamsError(
                f"{PARAMS_FILE}: candidates names {name!r}, but train has no such section; "
                f"sections of train: {', '.join(known) or 'none'}{did_you_mean(name, known)}"
            )
    return list(named)


def _checked_params() -> dict[str, Any]:
    """Return ./params.yaml, refusing sections that no stage reads and candidates without a section in train.

    Every stage refuses such candidates, because DVC itself fails only after it has trained the others.
    """
    values = read_params(PARAMS_FILE)
    if unknown := sorted(str(key) for key in values if key not in SECTIONS):
        known = ", ".join(SECTIONS)
        raise ParamsError(f"{PARAMS_FILE}: unknown section {unknown[0]!r}; known sections: {known}")
    if "candidates" in values and "train" in values:
        _candidates(values)
    return values


def read_params(path: Path) -> dict[str, Any]:
    """Return the whole params file as a plain dict.

    Raises:
        ParamsError: the file is missing, not YAML, or not a mapping.
    """
    return dict(_read(path, YAML(typ="safe", pure=True)))


def read_with_comments(path: Path) -> CommentedMap:
    """Return the whole params file as a mapping that can be written again with its comments.

    Raises:
        ParamsError: see read_params.
    """
    return cast(CommentedMap, _read(path, YAML(typ="rt", pure=True)))


def _read(path: Path, yaml: YAML) -> dict[str, Any]:
    try:
        values = yaml.load(path)
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; create it with `darkroom use mnist`") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected sections (download, preprocess, ...), found {type(values).__name__}")
    return values


def digest(values: Any) -> str:
    """Return the sha256 of the canonical JSON of values: equal values give equal digests."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted keys and text values: strings as they are, everything else as JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[name] = text if len(text) <= 6000 else f"{text[:5990]}..."  # MLflow's limit; params.yaml has it all
    return flat
