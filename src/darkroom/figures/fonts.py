"""Fonts for names in any script: DejaVu Sans, else one of the system or of the extra `fonts`."""

import importlib.util
import logging
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from darkroom.project.text import shown

BASE = "DejaVu Sans"  # comes with matplotlib
BOXES = ("Last Resort", "Adobe Blank")  # fonts that draw a box, or nothing, for every character
PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")  # of the extra `fonts`: Noto

_family_of: dict[str, str | None] = {}  # of every character looked up so far; None: no font has it
_width_of: dict[str, float] = {}  # in ems, of every character that a font has


def families(texts: Iterable[str]) -> list[str]:
    """Return the font families that draw texts: DejaVu Sans first, then others for characters that it lacks."""
    wanted = set("".join(texts))
    _look_up(wanted)
    return list(dict.fromkeys([BASE, *sorted(family for c in wanted if (family := _family_of[c]))]))


def legible(text: str) -> str:
    r"""Return text with an escape such as \u732b for every character that no font has."""
    _look_up(set(text))
    return "".join(c if _family_of[c] else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> float:
    """Return the width in ems of a line of text that `legible` returned."""
    _look_up(set(text))
    return sum(_width_of[c] for c in text)


def advice(names: Iterable[str]) -> str | None:
    """Return one line about names that pictures cannot show as they are; None if there are none."""
    odd = [name for name in dict.fromkeys(names) if legible(name) != name]
    if not odd:
        return None
    return (
        f"no font here has all characters of {len(odd)} class name{'s' * (len(odd) > 1)} (such as {shown(odd[0])}), so "
        "pictures spell them out; install a font such as Noto, or run `.venv/bin/uv pip install -e '.[fonts]'`"
    )


def _look_up(characters: set[str]) -> None:
    missing = characters - _family_of.keys()
    for path, family in _fonts() if missing else ():
        if missing:
            found = _drawable(path, missing)
            _family_of.update(dict.fromkeys(found, family))
            _width_of.update(found)
            missing -= found.keys()
    _family_of.update(dict.fromkeys(missing))


def _drawable(path: str, characters: set[str]) -> dict[str, float]:
    """Return the widths in ems of the characters for which a font has an outline, not a bitmap as in colour emoji."""
    try:
        font = FT2Font(path)
        held = {c for c in characters if font.get_char_index(ord(c))}
        if not font.scalable:
            return {}
        font.set_size(12, 72)
        glyphs = {c: font.load_char(ord(c)) for c in held}
        return {c: one.linearHoriAdvance / 65536 / 12 for c, one in glyphs.items() if c.isspace() or one.width > 0}
    except (OSError, RuntimeError, ValueError):  # not a font that FreeType reads
        return {}


@cache
def _fonts() -> list[tuple[str, str]]:
    """Return (file, family) of all families, the likeliest first: upright sans-serifs of regular weight."""
    logging.getLogger(font_manager.__name__).setLevel(logging.ERROR)  # it logs which weight it takes
    added = [*_of_packages()]
    for path in added:
        font_manager.fontManager.addfont(path)
    entries = [
        entry
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not entry.name.startswith(BOXES)
    ]
    entries.sort(
        key=lambda entry: (
            entry.name != BASE,
            entry.fname not in added,
            "Sans" not in entry.name,
            entry.weight not in (400, "normal", "regular"),
            entry.fname,
        )
    )
    first = {entry.name: entry.fname for entry in reversed(entries)}  # the file that matplotlib takes for the name
    return [(entry.fname, entry.name) for entry in entries if first[entry.name] == entry.fname]


def _of_packages() -> Iterator[str]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from (str(path) for path in sorted(Path(folder).iterdir()) if path.suffix in (".ttf", ".ttc", ".otf"))
