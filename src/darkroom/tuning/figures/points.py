"""Common parts of the plots of a search: points by kind of trial, accuracies shown, scales, legends."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from darkroom.figures.style import LIGHT, save
from darkroom.tuning.rows import TrialRow, last_accuracy, val_accuracy

BASELINE = "params.yaml"  # label of the trial with its values


def draw_points(
    axes: Axes, rows: Sequence[TrialRow], places: Mapping[int, float], *, lower: float, size: float = 5.0
) -> None:
    """Draw a point per trial with an accuracy, by its kind; points below `lower` become arrows there."""
    size = size if len(rows) <= 60 else 0.72 * size
    blue, quiet, paper = LIGHT["first"], LIGHT["quiet"], LIGHT["paper"]
    hollow: dict[str, Any] = {"markerfacecolor": paper, "markeredgewidth": 1.1}
    star: dict[str, Any] = {"marker": "*", "color": LIGHT["ink"], "markersize": 11, "zorder": 5}
    looks: dict[str, dict[str, Any]] = {
        "pruned": {"marker": "s", "color": quiet, "markersize": 0.6 * size, "alpha": 0.7},
        "running": {"marker": "D", "color": quiet, "markersize": 0.9 * size, **hollow},
        "complete": {"marker": "o", "color": blue, "markersize": size, "alpha": 0.8},
        "above a limit": {"marker": "o", "color": blue, "markersize": size, **hollow},
        "below the axis": {"marker": "v", "color": quiet, "markersize": size, "clip_on": False},
        BASELINE: star | {"markeredgecolor": paper},
        f"{BASELINE}, above a limit": star | hollow,
    }
    groups: dict[str, list[tuple[float, float]]] = {kind: [] for kind in looks}
    for row in rows:
        value = last_accuracy(row)
        if value is not None and row.number in places and row.state in ("complete", "pruned", "running"):
            groups[_kind(row, low=value < lower)].append((places[row.number], max(value, lower)))
    for kind, points in groups.items():
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="none", label=kind, **{"zorder": 3, **looks[kind]})


def _kind(row: TrialRow, *, low: bool) -> str:
    above = row.state == "complete" and not row.feasible
    if row.is_baseline:
        return f"{BASELINE}, above a limit" if above else BASELINE
    if low:
        return "below the axis"
    return "above a limit" if above else row.state


def limit_accuracy(axes: Axes, rows: Iterable[TrialRow]) -> float:
    """Set the range of accuracies of an axis, and return the lowest."""
    rows = list(rows)
    known = [value for row in rows if (value := last_accuracy(row)) is not None]
    complete = [value for row in rows if (value := val_accuracy(row)) is not None]
    baseline = [value for row in rows if row.is_baseline and (value := last_accuracy(row)) is not None]
    return limit_values(axes, known, usual=complete or known, always=baseline)


def limit_values(axes: Axes, values: Sequence[float], *, usual: Sequence[float], always: Sequence[float]) -> float:
    """Set an axis so that a few bad trials do not flatten all others, and return its lowest accuracy.

    Below the median of the usual values it has three times the room that the best value needs above, and more if the
    values in `always` need it.
    """
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if not values:
        axes.set_yticks([])  # crosses on an axis from 0 to 100 % would read as 0 %
        return 0.0
    middle, highest = statistics.median(usual), max(values)
    lower = min([max(min(values), middle - max(3 * (highest - middle), 0.01)), *always])
    margin = max(0.07 * (highest - lower), 0.001)  # also for equal accuracies
    axes.set_ylim(lower - margin, highest + margin)
    return lower


def scale_numbers(axes: Axes, values: Sequence[float], *, log: bool | None = None) -> None:
    """Set up the x axis for numbers, labelled as they are typed; log None: logarithmic over two decades."""
    wide = min(values) > 0 and max(values) > 100 * min(values)
    if wide if log is None else log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        whole = all(isinstance(value, int) for value in values)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=whole, min_n_ticks=1))
    # 1e-6, as it is typed; powers of ten would need TeX, a common factor would stand beside the axis.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}".replace("e-0", "e-")))
    axes.margins(x=0.08)


def legend(figure: Figure, *panels: Axes) -> None:
    """Write one legend below all panels, each label once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in entries}
    if entries:
        n_columns = len(entries) if len(entries) <= 5 else 4  # the number that fits into the width
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=n_columns)


def save_words(figure: Figure, axes: Axes, words: str, path: Path) -> Path:
    """Save a plot that has only words."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", color=LIGHT["quiet"], transform=axes.transAxes)
    return save(figure, path)
