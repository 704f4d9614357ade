"""Complete settings files in presets/, one of which `darkroom use` puts in place of params.yaml."""

import shutil
import subprocess
from difflib import get_close_matches
from pathlib import Path

from darkroom.errors import ParamsError
from darkroom.files.writing import replacing
from darkroom.project.params import flatten, read_params

Change = tuple[str | None, str | None]  # (old value, new value); None: the key is not there


def names(root: Path) -> list[str]:
    """Return the names of the presets, sorted."""
    return sorted(path.stem for path in (root / "presets").glob("*.yaml"))


def use(name: str, *, root: Path, force: bool) -> dict[str, Change]:
    """Write the preset over params.yaml of the repository `root` and return the keys that changed, dotted.

    A params.yaml that is exactly a preset, or exactly what git has committed, is no loss and is replaced.

    Raises:
        ParamsError: there is no such preset, or params.yaml has edits that would be lost and `force` is False.
    """
    source, target = root / "presets" / f"{name}.yaml", root / "params.yaml"
    if name not in names(root):
        known = ", ".join(names(root)) or f"none in {root / 'presets'}"
        near = get_close_matches(name, names(root), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParamsError(f"there is no preset {name!r}; presets: {known}{hint}")
    new = flatten(read_params(source))
    if not target.exists():
        old: dict[str, str] = {}
    elif not force and _would_lose_edits(root, target):
        raise ParamsError(
            f"{target} has edits that are in no commit; commit them, or use `darkroom use {name} --force` to lose them"
        )
    else:
        old = _flat(target)
    with replacing(target) as part:
        shutil.copyfile(source, part)
    return {
        key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }


def _flat(path: Path) -> dict[str, str]:
    try:
        return flatten(read_params(path))
    except ParamsError:  # a broken file may be replaced; there is nothing to compare with
        return {}


def _would_lose_edits(root: Path, target: Path) -> bool:
    content = target.read_bytes()
    if any(content == (root / "presets" / f"{name}.yaml").read_bytes() for name in names(root)):
        return False
    command = ["git", "-C", str(root), "show", "HEAD:./params.yaml"]
    try:
        committed = subprocess.run(command, capture_output=True, check=False)
    except OSError:  # no git
        return True
    return committed.returncode != 0 or committed.stdout != content
