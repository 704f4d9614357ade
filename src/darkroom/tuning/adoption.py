"""Show the values that `tune` found, write them into params.yaml, or drop them."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from darkroom.errors import ParamsError
from darkroom.files.writing import write_text
from darkroom.project.console import say
from darkroom.project.params import PARAMS_FILE, load_candidates, load_section, read_params
from darkroom.training import overrides
from darkroom.training.params import TrainParams
from darkroom.tuning import location


def changes(root: Path, candidate: str | None) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return (value in params.yaml, value in best.yaml) by candidate and dotted key, where they differ.

    Args:
        root: of the repository.
        candidate: None for all.

    Raises:
        DataError: a candidate was not tuned yet.
        ParamsError: it is not a section of train, or best.yaml does not fit it.
    """
    with contextlib.chdir(root):
        found = {}
        for name in [candidate] if candidate else load_candidates():
            section = load_section(f"train.{name}", TrainParams).model_dump()
            found[name] = overrides.with_best(section, Path("models") / name / "best.yaml")[1]
        return found


def lines(found: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> list[str]:
    """Return one line per value of changes()."""
    return [
        f"train.{candidate}.{key}: {overrides.shown(old)} -> {overrides.shown(new)}"
        for candidate, values in found.items()
        for key, (old, new) in values.items()
    ]


def write(root: Path, found: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> None:
    """Write the new values of changes() into params.yaml; everything else, including comments, stays.

    Raises:
        ParamsError: params.yaml cannot be edited, for example because it has aliases.
    """
    path = root / PARAMS_FILE
    params, stored = read_params(path), path.read_bytes().decode("utf-8")
    text = stored.replace("\r\n", "\n")
    replaced = [
        (["train", candidate, *key.split(".")], *pair)
        for candidate, values in found.items()
        for key, pair in values.items()
    ]
    with contextlib.suppress(YAMLError, KeyError):  # the target of an alias was replaced, or a key is merged (<<)
        for keys, old, new in replaced:
            text = _with_value(text, keys, old, new)
    for candidate, values in found.items():
        new_values = {key: new for key, (_, new) in values.items()}
        params["train"][candidate] = overrides.apply(params["train"][candidate], new_values)
    if _loaded(text) != params:
        raise ParamsError(
            f"{path} uses aliases (&, *) or merges (<<), so the values cannot be put in place; write them by hand"
        )
    write_text(path, text.replace("\n", "\r\n") if "\r\n" in stored else text)


def drop(candidate: str, base: Mapping[str, Any], *, why: str) -> None:
    """Drop the values of a candidate's last tuning, and print those that differ from params.yaml.

    Args:
        base: the candidate's section of train.
        why: a sentence about the params.
    """
    found = location.drop_values(candidate)
    values = dict(found.get("values", {}))
    with contextlib.suppress(ParamsError):  # another network lacks some of the keys
        values = {key: new for key, (_, new) in overrides.changed(base, values).items()}
    if values:
        named = ", ".join(f"{key} {overrides.shown(value)}" for key, value in values.items())
        say(
            f"tune: {candidate}: {why}: the tuned values are dropped ({named}); to keep them, write them into "
            f"train.{candidate}, or go back to {found['trials']} trials, of which none is repeated"
        )


def _loaded(text: str) -> Any:
    """Return the content of a YAML text, None if it is invalid."""
    with contextlib.suppress(YAMLError):
        return YAML(typ="safe", pure=True).load(text)


def _with_value(text: str, keys: list[str], old: Any, new: Any) -> str:
    """Return a YAML text with a new value at the path of these keys."""
    node: Node = YAML(typ="rt", pure=True).compose(text)
    for key in keys:
        node = _contents(node)[key]
    for place, content in sorted(_edits(node, old, new), key=lambda edit: edit[0].start_mark.index, reverse=True):
        start, end = place.start_mark.index, _end(place)
        if start == end:  # `key:` without a value: ruamel places it behind comments, or at the next key
            start = end = len(re.sub(r"(?:\s|(?<=\s)#[^\n]*)+\Z", "", text[:start]))
        if text[start - 1] == ":" or (_is_block(place) and isinstance(place, SequenceNode)):
            content = f" {content}"  # such a sequence may be indented as its key is, a value must be further
        rest = text[end:]
        if _is_block(place):
            rest = re.sub(r"^[ \t]*#[^\n]*", "", rest)  # the comment of a removed line
        elif spaces := re.match(r" +(?=#)", rest):
            width = len(spaces[0]) + end - start - len(content)  # the comment stays in its column
            rest = " " * max(1, width) + rest[spaces.end() :]
        text = text[:start] + content + rest
    return text


def _edits(node: Node, old: Any, new: Any) -> Iterator[tuple[Node, str]]:
    """Yield the nodes to replace and their new texts; of a mapping with the same keys only the differences."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
        for key, content in _contents(node).items():
            yield from _edits(content, old[key], new[key])
    elif old != new:
        yield node, _flow(new)


def _contents(node: Node) -> dict[str, Node]:
    return {key.value: content for key, content in node.value}


def _flow(value: Any) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = True, 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares None
    text = StringIO()
    yaml.dump([value], text)
    return text.getvalue().strip()[1:-1]


def _is_block(node: Node) -> bool:
    return isinstance(node, MappingNode | SequenceNode) and not node.flow_style


def _end(node: Node) -> int:
    """Return the end of a node's text; ruamel includes comments after a block."""
    if not _is_block(node):
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)
