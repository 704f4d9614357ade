"""Colours, fonts and saving of every plot. No pyplot, so no global state and no window."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from darkroom.figures.fonts import families, legible
from darkroom.files.writing import replacing

DPI = 144
WIDTH = 7.2  # inches of every chart: 1037 pixels, sharp at half that width on a phone

# first and second: the blue and the vermilion of Okabe & Ito's palette, told apart by colour-blind readers
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1a1d21",
    "quiet": "#5c6670",
    "line": "#d5dae0",
    "faint": "#d3e5f2",
    "first": "#0072b2",
    "second": "#d55e00",
    "on_first": "#ffffff",
}

DARK = {
    "paper": "#16191d",
    "ink": "#e8ebee",
    "quiet": "#9aa5b1",
    "line": "#363d46",
    "faint": "#24404f",
    "first": "#56b4e9",
    "second": "#e69f00",
    "on_first": "#10131a",
}

SPLITS = {"train": "training", "val": "validation"}


def clean(text: str, longest: int) -> str:
    """Return text in one line of at most `longest` characters that can be drawn; control characters become spaces.

    A longer text gets an ellipsis before its last third, because often only the end distinguishes classes.
    """
    line = legible(" ".join("".join(character if character.isprintable() else " " for character in text).split()))
    if len(line) <= longest:
        return line
    tail = longest // 3
    return f"{line[: longest - 1 - tail].rstrip()}…{line[len(line) - tail :].lstrip()}"


def ink(name: str, *, dark: bool = False) -> str:
    """Return the colour of a name, a key of LIGHT."""
    return (DARK if dark else LIGHT)[name]


@contextmanager
def style(*, dark: bool = False, texts: Iterable[str] = ()) -> Iterator[None]:
    """Draw in the fonts and colours of every plot while the block runs.

    Args:
        texts: returned by `clean`; text in the plot that may be in any script.
    """
    colors = DARK if dark else LIGHT
    settings: Any = {
        "font.family": families(texts),
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colors["quiet"],
        "axes.labelcolor": colors["ink"],
        "axes.titlecolor": colors["ink"],
        "axes.facecolor": colors["paper"],
        "axes.axisbelow": True,
        "figure.facecolor": colors["paper"],
        "figure.constrained_layout.h_pad": 0.09,
        "figure.constrained_layout.w_pad": 0.09,
        "savefig.facecolor": colors["paper"],
        "text.color": colors["ink"],
        "text.parse_math": False,
        "xtick.color": colors["quiet"],
        "ytick.color": colors["quiet"],
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "grid.color": colors["line"],
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.8,
    }
    with mpl.rc_context(settings):
        yield


def save(figure: Figure, path: Path) -> Path:
    """Write figure as PNG atomically and return path; the same plot gives the same bytes."""
    FigureCanvasAgg(figure)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})
    return path
