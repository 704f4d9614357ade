"""Store and apply values that replace those of params, by dotted key ("optimizer.weight_decay").

best.yaml, which `tune` writes and `train` reads, holds one such mapping.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from darkroom.errors import DataError, ParamsError
from darkroom.files.writing import write_errors, write_text
from darkroom.project.problems import explain
from darkroom.project.text import did_you_mean
from darkroom.training.params import TrainParams


def read(path: Path) -> dict[str, Any]:
    """Return the overrides of a file; none if it is empty.

    Raises:
        DataError: the file is missing, not YAML, or not a mapping of names to values.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist yet; run `dvc repro tune`") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; fix that and run again") from None
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}; run `dvc repro tune`") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        found = type(values).__name__
        raise DataError(f"{path}: expected keys of train and their values, found {found}; run `dvc repro tune`")
    for key in values:
        if not isinstance(key, str):
            raise DataError(f"{path}: {key!r} is not a key of train, expected text; run `dvc repro tune`")
    return values


def write(path: Path, values: Mapping[str, Any], *, comment: str) -> None:
    """Write overrides with a line of comment above them, atomically.

    Raises:
        DataError: the file cannot be written.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares None
    text = StringIO()
    yaml.dump(dict(values), text)
    with write_errors(path):
        write_text(path, f"# {comment}\n{text.getvalue()}")


def apply(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the params with the values at their dotted keys. No key is added.

    Raises:
        ParamsError: the params lack a key, or one key contains another, so that their order would matter.
    """
    check_apart(values)
    applied = copy.deepcopy(dict(recipe))
    for key, value in values.items():
        value_at(recipe, key)
        section = applied
        *sections, name = key.split(".")
        for part in sections:
            section = section[part]
        section[name] = copy.deepcopy(value)
    return applied


def with_best(recipe: Mapping[str, Any], best: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """Return the recipe with the values of best.yaml, and the result of changed().

    Raises:
        ParamsError: best.yaml has an invalid key or value.
        DataError: it cannot be read.
    """
    found = read(best)
    try:
        applied = TrainParams.model_validate(apply(recipe, found)).model_dump()
    except ParamsError as error:
        raise ParamsError(f"{best}: {error}") from None
    except ValidationError as error:
        raise ParamsError(f"{best}: {explain('train', TrainParams, error)}; run `dvc repro tune`") from None
    return applied, changed(recipe, found)


def changed(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return (old value, new value) by dotted key, where they differ.

    Raises:
        ParamsError: the params lack a key.
    """
    pairs = {key: (value_at(recipe, key), value) for key, value in values.items()}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def value_at(recipe: Mapping[str, Any], key: str) -> Any:
    """Return the params' value at a dotted key.

    Raises:
        ParamsError: there is no such key.
    """
    found: Any = recipe
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(found, Mapping):
            raise ParamsError(f"train has no key {key!r}: {'.'.join(walked)} is {shown(found)}, which has no keys")
        if part not in found:
            owner = f" of {'.'.join(walked)}" if walked else ""
            known = ", ".join(map(str, found)) or "none"
            raise ParamsError(f"train has no key {key!r}; known keys{owner}: {known}{_nearest(key, recipe)}")
        found = found[part]
        walked.append(part)
    return found


def check_apart(keys: Iterable[str]) -> None:
    """Check that no dotted key contains another one.

    Raises:
        ParamsError: one does.
    """
    named = set(keys)
    for key in sorted(named):
        parts = key.split(".")
        for end in range(1, len(parts)):
            if (whole := ".".join(parts[:end])) in named:
                raise ParamsError(
                    f"both {whole!r} and {key!r}, a part of it, are given; "
                    f"give {'.'.join(parts[end:])!r} inside {whole!r} and delete {key!r}"
                )


def shown(value: Any) -> str:
    """Return a value as in params.yaml, on one line and cut after 200 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _nearest(key: str, recipe: Mapping[str, Any]) -> str:
    """Return did_you_mean of a dotted key; keys with the same end come first, because the section may be missing."""
    known = list(_dotted_keys(recipe))
    same_end = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    return did_you_mean(key, same_end, cutoff=0.0) or did_you_mean(key, known)


def _dotted_keys(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key, including those of sections."""
    for key, value in recipe.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{prefix}{key}.")
