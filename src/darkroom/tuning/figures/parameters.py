"""Plots of the parameters of a search: their importance, and accuracy over their values.

Every plot can be drawn at any time of a search: without a trial, or without a finished one, it has a sentence instead.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from darkroom.figures.style import LIGHT, WIDTH, save, style
from darkroom.project.text import written
from darkroom.tuning.figures.points import draw_points, legend, limit_accuracy, save_words, scale_numbers
from darkroom.tuning.rows import TrialRow, last_accuracy, param_names

MOST_PANELS = 12
MOST_BARS = 20
FEW_NUMBERS = 6  # points of this many integers would overlap on an axis of numbers


def importance(scores: Mapping[str, float], path: Path) -> Path:
    """Draw a bar per parameter, the most important first, and return path; beyond MOST_BARS the largest.

    Args:
        scores: importance by name of a parameter, at least 0; empty if unknown.
    """
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:MOST_BARS]
    with style():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.24 * max(len(ranked), 3)), layout="constrained")
        axes = figure.add_subplot()
        if not ranked:
            return save_words(figure, axes, "Too few finished trials for parameter importances.", path)
        places = range(len(ranked))
        values = [value for _, value in ranked]
        axes.barh(places, values, height=0.62, color=LIGHT["first"])
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.2f}", (value, place), (4, 0), textcoords="offset points", va="center", size=7.5)
        axes.set_yticks(places, [_short(name, 40) for name, _ in ranked])
        axes.tick_params(axis="y", length=0)
        title = "Parameter importance for validation accuracy"
        title += f": {len(ranked)} of {len(scores)} parameters" if len(ranked) < len(scores) else ""
        axes.set(xlim=(0, 1.08 * (values[0] or 1.0)), ylim=(len(ranked) - 0.4, -0.6), xlabel="importance", title=title)
        axes.grid(axis="x")
        return save(figure, path)


def slices(
    rows: Sequence[TrialRow],
    path: Path,
    *,
    scores: Mapping[str, float] | None = None,
    logarithmic: Collection[str] | None = None,
) -> Path:
    """Draw the validation accuracy over the values of each parameter, a panel each, and return path.

    Args:
        rows: the trials; failed ones are left out.
        scores: importance of the parameters, to draw the MOST_PANELS most important ones, the largest first; None: in
            order of first appearance.
        logarithmic: names of the parameters with a logarithmic axis; None: those with positive values over more than
            two decades, which may also be drawn evenly from 0.
    """
    shown = [row for row in rows if last_accuracy(row) is not None]
    # A stable sort: parameters without a score keep their order, after the others.
    names = sorted(param_names(shown), key=lambda name: -(scores or {}).get(name, 0.0))
    with style():
        panels = names[:MOST_PANELS]
        n_columns = min(3, max(1, len(panels)))
        n_rows = -(-len(panels) // n_columns)
        figure = Figure(figsize=(WIDTH, 0.8 + 1.75 * n_rows if n_rows > 1 else 3.0), layout="constrained")
        if not panels:
            words = "No parameter is searched." if shown else "No trial has reported an accuracy yet."
            return save_words(figure, figure.add_subplot(), words, path)
        grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
        lower = limit_accuracy(grid[0, 0], shown)
        for number, axes in enumerate(grid.flat):
            if number >= len(panels):
                axes.set_axis_off()
                continue
            name = panels[number]
            _slice(axes, shown, name, lower=lower, log=None if logarithmic is None else name in logarithmic)
            axes.set_title(_short(name, 34), size=8)
            axes.grid()
        figure.supylabel("validation accuracy", size=9)
        if len(panels) < len(names):
            figure.suptitle(f"{len(panels)} of {len(names)} parameters", size=9, color=LIGHT["quiet"])
        legend(figure, *grid.flat)
        return save(figure, path)


def _slice(axes: Axes, rows: Sequence[TrialRow], name: str, *, lower: float, log: bool | None) -> None:
    """Draw one panel: numbers along an axis; labels, and few integers, side by side."""
    values = {row.number: row.params[name] for row in rows if name in row.params}
    distinct = list(dict.fromkeys(values.values()))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    few = len(distinct) <= FEW_NUMBERS and all(isinstance(value, int) for value in distinct)
    if numeric and not few:
        scale_numbers(axes, distinct, log=log)
        draw_points(axes, rows, {number: float(value) for number, value in values.items()}, lower=lower, size=4.0)
        return
    labels = list(dict.fromkeys(map(written, sorted(distinct) if numeric else sorted(distinct, key=written))))
    # The golden ratio spreads any run of trial numbers evenly, and the same way in every plot.
    spread = {number: 0.5 * ((number * 0.618034 + 0.5) % 1 - 0.5) for number in values}
    places = {number: labels.index(written(value)) + spread[number] for number, value in values.items()}
    room = max(30 // len(labels), 3)  # characters per label, written horizontally
    turned = max(map(len, labels)) > room
    names = [_short(label, 12) for label in labels]
    axes.set_xticks(range(len(labels)), names, size=7 if len(labels) <= 8 else 5, rotation=35 if turned else 0)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    draw_points(axes, rows, places, lower=lower, size=4.0)


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
