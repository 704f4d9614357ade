"""A grid of images with a caption each, as one image file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from darkroom.errors import DataError
from darkroom.figures.fonts import width as ems
from darkroom.figures.style import DPI, clean, ink, save, style


def image_grid(
    images: Sequence[np.ndarray] | np.ndarray,
    titles: Sequence[str],
    path: Path,
    *,
    n_columns: int = 8,
    heading: str = "",
) -> Path:
    """Draw images in rows of n_columns, each below its title (one or two lines), and return path.

    Args:
        images: each uint8, (H, W), (H, W, 1) or (H, W, 3) RGB; sizes may differ, the aspect ratio is kept.
        titles: one per image; a long title is wrapped at spaces, hyphens, underscores and slashes, and cut with an
            ellipsis after the second line; characters are shown as they are (no TeX).

    Raises:
        DataError: there are no images, the counts disagree, or an image has another shape or dtype.
    """
    if len(images) == 0 or len(images) != len(titles):
        raise DataError(f"{path}: {len(images)} images and {len(titles)} titles; expected equal numbers, at least one")
    n_columns = max(1, min(n_columns, len(images)))
    n_rows = -(-len(images) // n_columns)
    cell, gap, margin, text_height = 1.15, 0.14, 0.14, 0.16
    width = 2 * margin + n_columns * (cell + gap) - gap
    titles = ["\n".join(_wrapped(line, (cell + gap / 2) * 72 / 7.5) for line in title.split("\n")) for title in titles]
    heading = _wrapped(heading, (width - 2 * margin) * 72 / 9 / 1.15, most=6)  # bold letters are wider
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    head = 0.16 + 0.18 * (heading.count("\n") + 1) if heading else 0.0
    row_height = cell + lines * text_height + gap
    height = 2 * margin + head + n_rows * row_height - gap
    with style(texts=[*titles, heading]):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        if heading:
            axes.text(margin, margin, heading, va="top", weight="bold", parse_math=False)
        for position, (image, title) in enumerate(zip(images, titles, strict=True)):
            left = margin + position % n_columns * (cell + gap)
            top = margin + head + position // n_columns * row_height
            axes.text(left, top, title, va="top", size=7.5, color=ink("quiet"), parse_math=False)
            _place(axes, _rgb(image, path), left=left, top=top + lines * text_height, cell=cell)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_aspect("auto")  # imshow sets its own; one unit is one inch in both directions here anyway
        return save(figure, path)


def _wrapped(text: str, width: float, *, most: int = 2) -> str:
    """Return text in at most `most` lines of at most `width` ems, with an ellipsis if it is longer."""
    lines = [""]
    for part in re.findall(r"\s*[^\s\-_/]*[\-_/]*", clean(text, 10_000)):
        if ems(lines[-1] + part) > width and lines[-1]:
            lines.append("")
            part = part.lstrip()
        for character in part:  # a part wider than a line is broken anywhere
            if ems(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) > most:
        last = lines[most - 1]
        while ems(last + "…") > width:
            last = last[:-1]
        lines[most - 1] = last.rstrip() + "…"
    return "\n".join(line.rstrip() for line in lines[:most])


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
