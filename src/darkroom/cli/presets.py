"""Presets: one complete params.yaml, and files with differences from it.

presets/mnist.yaml is the default and is complete. Every other presets/NAME.yaml holds only its differences from the
default, or from the preset that its `base` names; `darkroom use` writes the merged params.yaml. The rules:

- Mappings merge key by key; a key that the base lacks is an error. Anything else replaces the base's value.
- Two mappings are replaced as a whole, because their keys depend on the network: train.NAME.architecture, unless the
  network stays the same, and tune.space.NAME.
- `candidates` decides which sections of train and tune.space are written. Other sections of the base are left out,
  unless the preset has them too, so that users can add them to `candidates`. A section that the base lacks must be
  complete.

A comment at the end of a line replaces the base's; without one the base's stays. The head is the preset's own.
"""

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import reduce
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.tokens import CommentToken

from darkroom.errors import ParamsError
from darkroom.files.writing import write_text
from darkroom.project.params import EXPECTED_CANDIDATES, flatten, read_params, read_with_comments
from darkroom.project.text import did_you_mean

Settings = Iterable[tuple[str, Any, str]]
Change = tuple[str | None, str | None]  # (old value, new value); None: the key is not there

DEFAULT = "mnist"
COLUMN = 34  # of comments
OF_CANDIDATES = (("train",), ("tune", "space"))  # where each candidate has a section


def names(root: Path) -> list[str]:
    """Return the names of the presets, sorted."""
    return sorted(path.stem for path in _folder(root).glob("*.yaml"))


def use(name: str, *, root: Path, force: bool) -> dict[str, Change]:
    """Write the preset over params.yaml of the repository `root` and return the keys that changed, dotted.

    A params.yaml that equals a preset or the committed file is replaced without `force`.

    Raises:
        ParamsError: the preset does not exist or is invalid, or params.yaml has edits that would be lost and `force`
            is False.
    """
    merged = text(name, root=root)
    if not force:
        check_no_edits(root, command=f"darkroom use {name}")
    return replace(merged, root=root)


def check_no_edits(root: Path, *, command: str) -> None:
    """Check that params.yaml of the repository `root` may be replaced.

    Args:
        command: the command that replaces it, for the error; it has an option --force.

    Raises:
        ParamsError: it has edits that would be lost.
    """
    target = root / "params.yaml"
    if target.exists() and _would_lose_edits(root, target):
        raise ParamsError(f"{target} has uncommitted edits; commit them, or discard them with `{command} --force`")


def replace(merged: str, *, root: Path) -> dict[str, Change]:
    """Write the text as params.yaml of the repository `root` and return the keys that changed, dotted."""
    target = root / "params.yaml"
    old = _flat(target)
    write_text(target, merged)
    new = flatten(read_params(target))
    return {
        key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }


def missing_source(root: Path) -> str | None:
    """Return the first path of the dataset in params.yaml that does not exist, None if all do."""
    dataset = read_params(root / "params.yaml").get("download", {}).get("dataset")
    sources = dataset["sources"] if isinstance(dataset, dict) else []
    paths = [source["path"] for source in sources if source["kind"] == "path"]
    return next((path for path in paths if not (root / Path(path).expanduser()).exists()), None)


def read(name: str, *, root: Path) -> dict[str, Any]:
    """Return the params of a preset, merged with the default.

    Raises:
        ParamsError: see `text`.
    """
    return dict(YAML(typ="safe", pure=True).load(text(name, root=root)))


def text(name: str, *, root: Path) -> str:
    """Return the params.yaml of a preset, merged with the default, with its comments.

    Raises:
        ParamsError: the preset or the default is missing or not YAML, or the preset has a key that the default lacks.
    """
    content = _path(name, root).read_text(encoding="utf-8")
    if name == DEFAULT:
        return content
    params = _merged(name, root=root)
    head = "\n".join(takewhile(lambda line: line.startswith("#"), content.splitlines()))
    return _completed(params, head)


def text_with(name: str, settings: Settings, *, head: str, root: Path) -> str:
    """Return the params.yaml of a preset with changed settings, each with a comment.

    Args:
        settings: (dotted key, value, comment).
        head: comment lines at the top, in place of those of the preset.

    Raises:
        ParamsError: see `text`.
    """
    top = CommentedMap()
    for key, value, comment in settings:
        *above, last = key.split(".")
        section = reduce(lambda section, key: section.setdefault(key, CommentedMap()), above, top)
        section[last] = _node(value)
        if isinstance(node := section[last], CommentedSeq) and isinstance(node[-1], CommentedMap):
            section, last = node[-1], [*node[-1]][-1]  # the line of a list of mappings ends before its first one
        section.yaml_add_eol_comment(comment, last, column=COLUMN)
    params = _merged(name, root=root)
    _put(params, top, path=root / "params.yaml")
    return _completed(params, head)


def _node(value: Any, *, flow: bool = False) -> Any:
    """Return a value for ruamel: a list of mappings is written over several lines, other lists and mappings on one."""
    node: Any = value
    if isinstance(value, dict):
        node = CommentedMap({key: _node(inner, flow=True) for key, inner in value.items()})
    elif isinstance(value, list):
        node = CommentedSeq(_node(item) for item in value)
        flow = flow or not any(isinstance(item, dict) for item in value)
    if flow and node is not value:
        node.fa.set_flow_style()
    return node


def _completed(params: CommentedMap, head: str) -> str:
    return "\n\n".join(filter(None, [head, *(_dumped(params, section) for section in params)])) + "\n"


def _path(name: str, root: Path) -> Path:
    known = names(root)
    if name not in known:
        listed = ", ".join(known) or f"none in {_folder(root)}"
        raise ParamsError(f"there is no preset {name!r}; presets: {listed}{did_you_mean(str(name), known)}")
    return _folder(root) / f"{name}.yaml"


def _merged(name: str, *, root: Path, above: tuple[str, ...] = ()) -> CommentedMap:
    """Return the params of a preset; `above` are the presets whose base it is."""
    path = _path(name, root)
    preset = read_with_comments(path)
    if name == DEFAULT:
        return preset
    base = preset.pop("base", DEFAULT)
    if base in (*above, name):
        raise ParamsError(f"{path}: base is {base!r}, which leads back to this preset; name another one")
    params = _merged(base, root=root, above=(*above, name))
    _put(params, preset, path=path)
    return params


def _put(params: CommentedMap, preset: CommentedMap, *, path: Path) -> None:
    """Merge a preset into the params, in place, and delete the candidates that it leaves out."""
    candidates = preset.get("candidates", params.get("candidates"))
    if not isinstance(candidates, list):
        raise ParamsError(f"{path}: candidates is {candidates!r}: {EXPECTED_CANDIDATES}")
    for keys in OF_CANDIDATES:
        sections, own = (reduce(lambda section, key: section.get(key, {}), keys, one) for one in (params, preset))
        for left_out in sections.keys() - set(candidates) - own.keys():
            del sections[left_out]
    _merge(params, preset, candidates=candidates, path=path)


def _folder(root: Path) -> Path:
    return root / "presets"


def _merge(
    params: CommentedMap, preset: CommentedMap, *, candidates: list[str], path: Path, at: tuple[str, ...] = ()
) -> None:
    """Merge a preset into the params, in place, by the rules above."""
    for key, value in preset.items():
        known = list(dict.fromkeys([*params, *candidates]) if at in OF_CANDIDATES else params)
        if key not in known:
            kind, where = ("key", f"{'.'.join(at)} has an unknown key") if at else ("section", "unknown section")
            hint = did_you_mean(str(key), known) or f"; known {kind}s: {', '.join(known)}"
            raise ParamsError(f"{path}: {where} {key!r}{hint}")
        here, old = (*at, key), params.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, CommentedMap) and not _is_whole(here, old, value):
            _merge(old, value, candidates=candidates, path=path, at=here)
        else:
            params[key] = value
        if comment := _comment(preset, key):
            replaced = _comment(params, key) or comment  # the default's column
            replaced.value = comment.value.partition("\n")[0] + "\n"  # ruamel includes the empty lines below it
            params.ca.items[key] = [None, None, replaced, None]


def _is_whole(keys: tuple[str, ...], old: CommentedMap, new: CommentedMap) -> bool:
    match keys:
        case ("train", _, "architecture"):
            return "name" in new and new["name"] != old.get("name")
        case ("tune", "space", _):
            return True
    return False


def _comment(mapping: CommentedMap, key: str) -> CommentToken | None:
    """Return the comment at the end of a key's line, None if there is none or only an empty line."""
    token: CommentToken | None = mapping.ca.items.get(key, [None] * 4)[2]
    return token if token is not None and token.value.startswith("#") else None


class _Representer(RoundTripRepresenter):
    """Writes null as such, not as nothing."""


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _dumped(params: CommentedMap, section: str) -> str:
    """Return one section as YAML, without empty lines around it."""
    alone = CommentedMap({section: params[section]})
    if section in params.ca.items:
        alone.ca.items[section] = params.ca.items[section]
    yaml = YAML(typ="rt", pure=True)
    yaml.Representer = _Representer
    yaml.width = 10_000  # a line is never broken
    yaml.indent(mapping=2, sequence=4, offset=2)
    written = StringIO()
    yaml.dump(alone, written)
    return written.getvalue().strip()


def _flat(path: Path) -> dict[str, str]:
    try:
        return flatten(read_params(path))
    except ParamsError:  # a broken file may be replaced
        return {}


def _would_lose_edits(root: Path, target: Path) -> bool:
    content = target.read_bytes()
    command = ["git", "-C", str(root), "show", "HEAD:./params.yaml"]
    with suppress(OSError):  # no git
        committed = subprocess.run(command, capture_output=True, check=False)
        if committed.returncode == 0 and committed.stdout == content:
            return False
    return not any(_is_preset(content, name, root) for name in names(root))


def _is_preset(content: bytes, name: str, root: Path) -> bool:
    try:
        return text(name, root=root).encode() == content
    except ParamsError:  # a broken preset was never written to params.yaml
        return False
