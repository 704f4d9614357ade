"""Draw every picture: plain arrays in, a PNG out; the path is returned. No pyplot, so no global state and no window."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from darkroom.errors import DataError

DPI = 144
WIDTH = 7.2  # inches of every chart: 1037 pixels, sharp at half that width on a phone

LIGHT = {"paper": "#ffffff", "ink": "#1a1d21", "quiet": "#5c6670", "line": "#d5dae0"}
DARK = {"paper": "#16191d", "ink": "#e8ebee", "quiet": "#9aa5b1", "line": "#363d46"}


def image_grid(
    images: Sequence[np.ndarray] | np.ndarray,
    titles: Sequence[str],
    path: Path,
    *,
    n_columns: int = 8,
    heading: str = "",
    dark: bool = False,
) -> Path:
    """Draw images in rows of n_columns, each below its title (one or two lines), and return path.

    Args:
        images: each uint8, (H, W), (H, W, 1) or (H, W, 3) RGB; sizes may differ, the aspect ratio is kept.
        titles: one per image; too long a line is cut with an ellipsis, characters are shown as they are (no TeX).

    Raises:
        DataError: there is no image, the counts disagree, or an image has another shape or dtype.
    """
    if len(images) == 0 or len(images) != len(titles):
        raise DataError(
            f"{path}: {len(images)} images and {len(titles)} titles, expected as many of both, at least one"
        )
    n_columns = max(1, min(n_columns, len(images)))
    n_rows = -(-len(images) // n_columns)
    cell, gap, margin, text_height = 1.15, 0.12, 0.14, 0.19
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    head = 0.34 if heading else 0.0
    row_height = cell + lines * text_height + gap
    width = 2 * margin + n_columns * (cell + gap) - gap
    height = 2 * margin + head + n_rows * row_height - gap
    with _style(dark=dark):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        if heading:
            axes.text(margin, margin, _clean(heading, int(width * 11)), va="top", weight="bold", parse_math=False)
        for position, (image, title) in enumerate(zip(images, titles, strict=True)):
            left = margin + position % n_columns * (cell + gap)
            top = margin + head + position // n_columns * row_height
            shown = "\n".join(_clean(line, 17) for line in title.split("\n"))
            axes.text(left, top, shown, va="top", size=7.5, color=_ink("quiet", dark=dark), parse_math=False)
            _place(axes, _rgb(image, path), left=left, top=top + lines * text_height, cell=cell)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_aspect("auto")  # imshow sets its own; one unit is one inch in both directions here anyway
        return _save(figure, path)


def _place(axes: Any, image: np.ndarray, *, left: float, top: float, cell: float) -> None:
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    high, wide = height * scale, width * scale
    x, y = left + (cell - wide) / 2, top + (cell - high) / 2
    enlarged = max(height, width) < cell * DPI  # small images keep their pixels visible, big ones are averaged
    axes.imshow(image, extent=(x, x + wide, y + high, y), interpolation="nearest" if enlarged else "antialiased")


def _rgb(image: np.ndarray, path: Path) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise DataError(
            f"{path}: cannot draw an image of shape {image.shape} and type {image.dtype}; expected uint8 (H, W), "
            "(H, W, 1) or (H, W, 3)"
        )
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def _clean(text: str, longest: int) -> str:
    """Return text in one line of at most `longest` characters; control characters become spaces."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _ink(name: str, *, dark: bool) -> str:
    return (DARK if dark else LIGHT)[name]


@contextmanager
def _style(*, dark: bool) -> Iterator[None]:
    colors = DARK if dark else LIGHT
    settings: Any = {
        "font.family": ["DejaVu Sans"],
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
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A class name in a script that DejaVu lacks is drawn as boxes: ugly, but no reason to lose the picture.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _save(figure: Figure, path: Path) -> Path:
    """Write figure as PNG and return path: whole or not at all, and the same bytes for the same picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".png.tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
        Path(name).chmod(0o644)  # mkstemp's 0600 would keep a web server or another user from reading the report
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
