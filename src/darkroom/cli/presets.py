"""Presets: one complete params.yaml, and files that hold what differs from it.

presets/mnist.yaml is the default and is complete. Every other presets/NAME.yaml holds what differs, and `darkroom use`
writes the two of them, merged, as params.yaml. The rule:

- Mappings merge key by key; a key that the default lacks is an error. Anything else replaces the default's value.
- Two kinds of mappings are replaced whole, because their keys depend on the network: train.NAME.architecture and
  tune.space.NAME.
- `candidates` decides which sections of train and tune.space there are. The default's others are left out, unless the
  preset has them too: then they wait for the user to add them to `candidates`. One that the default lacks is given
  whole.

A comment at the end of a line replaces the default's; without one the default's stays. The head is the preset's own.
"""

import subprocess
from contextlib import suppress
from functools import reduce
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.tokens import CommentToken

from darkroom.errors import ParamsError
from darkroom.files.writing import write_text
from darkroom.project.params import EXPECTED_CANDIDATES, flatten, read_params, read_with_comments
from darkroom.project.text import did_you_mean

Change = tuple[str | None, str | None]  # (old value, new value); None: the key is not there

DEFAULT = "mnist"
OF_CANDIDATES = (("train",), ("tune", "space"))  # where each candidate has a section


def names(root: Path) -> list[str]:
    """Return the names of the presets, sorted."""
    return sorted(path.stem for path in _folder(root).glob("*.yaml"))


def use(name: str, *, root: Path, force: bool) -> dict[str, Change]:
    """Write the preset over params.yaml of the repository `root` and return the keys that changed, dotted.

    A params.yaml that is exactly a preset, or exactly what git has committed, is not a loss and is replaced.

    Raises:
        ParamsError: the preset does not exist or is invalid, or params.yaml has edits that would be lost and `force`
            is False.
    """
    target = root / "params.yaml"
    merged = text(name, root=root)
    if not target.exists():
        old: dict[str, str] = {}
    elif not force and _would_lose_edits(root, target):
        raise ParamsError(
            f"{target} has uncommitted edits; commit them, or discard them with `darkroom use {name} --force`"
        )
    else:
        old = _flat(target)
    write_text(target, merged)
    new = flatten(read_params(target))
    return {
        key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }


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
    known = names(root)
    for needed in (name, DEFAULT):
        if needed not in known:
            listed = ", ".join(known) or f"none in {_folder(root)}"
            raise ParamsError(f"there is no preset {needed!r}; presets: {listed}{did_you_mean(needed, known)}")
    path = _folder(root) / f"{name}.yaml"
    if name == DEFAULT:
        return path.read_text(encoding="utf-8")
    params = read_with_comments(_folder(root) / f"{DEFAULT}.yaml")
    preset = read_with_comments(path)
    candidates = preset.get("candidates", params.get("candidates"))
    if not isinstance(candidates, list):
        raise ParamsError(f"{path}: candidates is {candidates!r}: {EXPECTED_CANDIDATES}")
    for keys in OF_CANDIDATES:
        sections, own = (reduce(lambda section, key: section.get(key, {}), keys, one) for one in (params, preset))
        for left_out in sections.keys() - set(candidates) - own.keys():
            del sections[left_out]
    _merge(params, preset, candidates=candidates, path=path)
    lines = path.read_text(encoding="utf-8").splitlines()
    head = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    return "\n\n".join(filter(None, [head, *(_dumped(params, section) for section in params)])) + "\n"


def _folder(root: Path) -> Path:
    return root / "presets"


def _merge(
    params: CommentedMap, preset: CommentedMap, *, candidates: list[str], path: Path, at: tuple[str, ...] = ()
) -> None:
    """Put what a preset says into the params, in place, by the rule above."""
    for key, value in preset.items():
        known = list(dict.fromkeys([*params, *candidates]) if at in OF_CANDIDATES else params)
        if key not in known:
            kind, where = ("key", f"{'.'.join(at)} has an unknown key") if at else ("section", "unknown section")
            hint = did_you_mean(str(key), known) or f"; known {kind}s: {', '.join(known)}"
            raise ParamsError(f"{path}: {where} {key!r}{hint}")
        here, old = (*at, key), params.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, CommentedMap) and not _is_whole(here):
            _merge(old, value, candidates=candidates, path=path, at=here)
        else:
            params[key] = value
        if comment := _comment(preset, key):
            replaced = _comment(params, key) or comment  # the default's column
            replaced.value = comment.value.partition("\n")[0] + "\n"  # ruamel notes the empty lines below it too
            params.ca.items[key] = [None, None, replaced, None]


def _is_whole(keys: tuple[str, ...]) -> bool:
    match keys:
        case ("train", _, "architecture") | ("tune", "space", _):
            return True
    return False


def _comment(mapping: CommentedMap, key: str) -> CommentToken | None:
    """Return the comment at the end of the line of a key, if there is one and not only an empty line."""
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
    except ParamsError:  # a broken file may be replaced; there is nothing to compare with
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
    except ParamsError:  # a broken preset was never put in place
        return False
