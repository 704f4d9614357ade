"""Names in scripts that the font of the plots lacks: another font draws them, or they are spelled out."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.ft2font import FT2Font

from darkroom.figures import fonts, grid, style

FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"


def only_elsewhere() -> str:
    """Return a letter that STIX has, which comes with matplotlib, and DejaVu Sans lacks."""
    base, other = (set(FT2Font(str(FONTS / name)).get_charmap()) for name in ("DejaVuSans.ttf", "STIXGeneral.ttf"))
    return next(c for c in map(chr, sorted(other - base)) if c.isalpha())


def in_no_font() -> str:
    rare = (c for c in map(chr, range(0x12000, 0x1F000, 0x40)) if c.isprintable())
    return next(c for c in rare if fonts.legible(c) != c)


def test_a_letter_that_another_font_has_is_drawn_with_it(tmp_path: Path) -> None:
    name = f"{only_elsewhere()} cat"
    assert fonts.families([name])[0] == fonts.BASE
    assert len(fonts.families([name])) == 2
    assert fonts.legible(name) == name
    assert fonts.advice([name]) is None
    grid.image_grid([np.zeros((8, 8), np.uint8)], [name], tmp_path / "grid.png")  # matplotlib warns of a missing glyph


def test_a_character_that_no_font_has_is_spelled_out_and_told(tmp_path: Path) -> None:
    odd = in_no_font()
    assert style.clean(f"cat {odd}", 20) == f"cat \\U{ord(odd):08x}"
    assert fonts.families(["cat", f"cat {odd}"]) == [fonts.BASE]
    said = fonts.advice(["dog", f"cat {odd}", odd])
    assert said is not None
    assert said.startswith(f"no font here has all characters of 2 class names (such as 'cat {odd}'), so pictures spell")
    grid.image_grid([np.zeros((8, 8), np.uint8)], [f"cat {odd}"], tmp_path / "grid.png")


def test_a_title_is_as_wide_as_its_letters_are() -> None:
    assert fonts.width("mm") == 2 * fonts.width("m") > 3 * fonts.width("i")
    for name in ("m" * 40, "i" * 40, only_elsewhere() * 40):
        lines = grid._wrapped(name, 10.0).split("\n")
        assert len(lines) == 2
        assert max(map(fonts.width, lines)) <= 10 < fonts.width(lines[0] + name[0])


def test_a_title_breaks_where_parts_of_a_name_end() -> None:
    lines = grid._wrapped("as semi-detached_house/left", 6.0, most=5).split("\n")
    assert lines == ["as semi-", "detached_", "house/left"]
    assert grid._wrapped("one two three", 4.0) == "one\ntwo…"


def test_a_long_name_keeps_the_end_that_tells_it_apart() -> None:
    names = [style.clean(f"left-handed scissors {number:03d}", 14) for number in (7, 8)]
    assert names == ["left-hand…007", "left-hand…008"]
    assert style.clean("left-handed", 11) == "left-handed"
