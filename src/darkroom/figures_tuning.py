"""Pictures of a search for hyper-parameters: the rows of its trials in, a PNG out.

Every picture can be drawn at any moment of a search: without a trial, or without a finished one, it says so in words.
"""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from darkroom.figures import WIDTH, ink, save, style
from darkroom.trial_rows import (
    TrialRow,
    best_so_far,
    best_trial,
    last_accuracy,
    param_names,
    pareto_front,
    val_accuracy,
    written,
)

MOST_PANELS = 12
MOST_BARS = 20
FEW_NUMBERS = 6  # points of so few whole numbers would hide each other on an axis of numbers
COST_LABELS = {"latency_ms": "latency per picture, ms", "model_bytes": "size of the model"}
BASELINE = "params.yaml"  # the trial with its values


def history(rows: Sequence[TrialRow], path: Path) -> Path:
    """Draw the validation accuracy of every trial and the best so far, and return path.

    Of a trial that was pruned or still runs it is the accuracy that it reported last. Trials that failed or were killed
    are crosses at the bottom.
    """
    with style(dark=False):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        shown = [row for row in rows if row.state != "waiting"]
        if not shown:
            return _say(figure, axes, "No trial has started yet.", path)
        lower = _limit(axes, shown)
        _points(axes, shown, {row.number: float(row.number) for row in shown}, lower=lower)
        broken = [row.number for row in shown if row.state in ("failed", "killed")]
        if broken:
            cross: dict[str, Any] = {"color": _ink("second"), "markersize": 5, "markeredgewidth": 1.2, "clip_on": False}
            bottom = axes.get_xaxis_transform()  # x of the data, y from 0 at the bottom of the axes to 1 at the top
            axes.plot(broken, [0.0] * len(broken), "x", transform=bottom, label="failed or killed", zorder=4, **cross)
        best = best_so_far(shown)
        if best:
            last = max(row.number for row in shown)
            steps = [*best.items(), (last + 0.5, best[max(best)])]
            axes.plot(*zip(*steps, strict=True), "-", drawstyle="steps-post", color=_ink("second"), label="best so far")
        baseline = next((value for row in shown if row.is_baseline and (value := val_accuracy(row)) is not None), None)
        if baseline is not None:
            axes.axhline(baseline, color=_ink("quiet"), linewidth=1, linestyle=":")
        first, last = min(row.number for row in shown), max(row.number for row in shown)
        margin = max(0.6, 0.02 * (last - first))
        axes.set(xlim=(first - margin, last + margin), xlabel="trial", ylabel="validation accuracy")
        axes.set_title(_best_in_words(shown))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        _legend(figure, axes)
        return save(figure, path)


def importance(scores: Mapping[str, float], path: Path) -> Path:
    """Draw a bar per parameter, the most important first, and return path; beyond MOST_BARS the greatest.

    Args:
        scores: name of a parameter -> its share in what decides the accuracy, at least 0; empty if it is not known.
    """
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:MOST_BARS]
    with style(dark=False):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.24 * max(len(ranked), 3)), layout="constrained")
        axes = figure.add_subplot()
        if not ranked:
            return _say(figure, axes, "Too few finished trials to tell which parameters matter.", path)
        places = range(len(ranked))
        values = [value for _, value in ranked]
        axes.barh(places, values, height=0.62, color=_ink("first"))
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.2f}", (value, place), (4, 0), textcoords="offset points", va="center", size=7.5)
        axes.set_yticks(places, [_short(name, 40) for name, _ in ranked])
        axes.tick_params(axis="y", length=0)
        title = "What decides the validation accuracy"
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
        rows: the trials; those that failed are left out.
        scores: importance of the parameters: more than MOST_PANELS of them are drawn by it, the greatest first; without
            it in order of first appearance.
        logarithmic: names of the parameters to draw on a logarithmic axis; None: those whose values are positive and
            span more than two decades, which many values drawn evenly from 0 on do, too.
    """
    shown = [row for row in rows if last_accuracy(row) is not None]
    # A stable sort: what has no score keeps its order, behind what has one.
    names = sorted(param_names(shown), key=lambda name: -(scores or {}).get(name, 0.0))
    with style(dark=False):
        panels = names[:MOST_PANELS]
        n_columns = min(3, max(1, len(panels)))
        n_rows = -(-len(panels) // n_columns)
        figure = Figure(figsize=(WIDTH, 0.8 + 1.75 * n_rows if n_rows > 1 else 3.0), layout="constrained")
        if not panels:
            words = "No parameter is searched." if shown else "No trial has reported an accuracy yet."
            return _say(figure, figure.add_subplot(), words, path)
        grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
        lower = _limit(grid[0, 0], shown)
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
            figure.suptitle(f"{len(panels)} of {len(names)} parameters", size=9, color=_ink("quiet"))
        _legend(figure, *grid.flat)
        return save(figure, path)


def pareto(
    rows: Sequence[TrialRow], cost: str, path: Path, *, chosen: int | None = None, limit: float | None = None
) -> Path:
    """Draw the validation accuracy of complete trials over a cost, join the Pareto front, and return path.

    Args:
        rows: the trials; those above a limit are hollow.
        cost: "latency_ms" or "model_bytes".
        chosen: number of the trial that is used; it is marked.
        limit: the greatest cost allowed; it is drawn.
    """
    shown = [row for row in rows if val_accuracy(row) is not None and cost in row.metrics]
    with style(dark=False):
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        axes = figure.add_subplot()
        if not shown:
            return _say(figure, axes, "No trial has finished yet.", path)
        lower = _limit(axes, shown)
        front = pareto_front(shown, cost)
        costs = {row.number: row.metrics[cost] for row in shown}
        _scale(axes, list(costs.values()) + ([limit] if limit is not None else []))
        if front:
            along = [max(row.metrics["val_accuracy"], lower) for row in front]
            line: dict[str, Any] = {"drawstyle": "steps-post", "color": _ink("second"), "linewidth": 1.4, "zorder": 2}
            axes.plot([costs[row.number] for row in front], along, "-", label="Pareto front", **line)
        _points(axes, shown, costs, lower=lower)
        kept = next((row for row in shown if row.number == chosen), None)
        if kept is not None:
            ring: dict[str, Any] = {
                "markersize": 13,
                "markerfacecolor": "none",
                "markeredgecolor": _ink("second"),
                "zorder": 6,
            }
            height = max(kept.metrics["val_accuracy"], lower)
            axes.plot([costs[kept.number]], [height], "o", label=f"chosen (trial {kept.number})", **ring)
        if limit is not None:
            axes.axvline(limit, color=_ink("quiet"), linewidth=1, linestyle="--", label="limit")
        axes.set(xlabel=COST_LABELS[cost], ylabel="validation accuracy")
        axes.set_title(f"On the Pareto front: {len(front)} of {len(shown)} trials")
        if cost == "model_bytes":
            axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
        axes.grid()
        _legend(figure, axes)
        return save(figure, path)


def curves(rows: Sequence[TrialRow], path: Path) -> Path:
    """Draw the validation accuracy of every trial by epoch, the best and the baseline on top, and return path."""
    drawn = [row for row in rows if row.curve]
    best = best_trial(drawn)
    with style(dark=False):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        if not drawn:
            return _say(figure, axes, "No trial has finished an epoch yet.", path)
        thin: dict[str, Any] = {"linewidth": 0.7, "color": _ink("quiet")}
        full: dict[str, Any] = {"linewidth": 1.1, "color": _ink("first")}
        many = 0.85 if len(drawn) <= 30 else 0.35
        kinds: list[tuple[str, list[TrialRow], dict[str, Any]]] = [
            ("pruned, failed or killed", [row for row in drawn if row.state not in ("complete", "running")], thin),
            ("complete", [row for row in drawn if row.state == "complete"], full),
            ("running", [row for row in drawn if row.state == "running"], full | {"linestyle": "--"}),
        ]
        for label, group, look in kinds:
            for row in group:
                axes.plot(*_by_epoch(row), alpha=many, marker=_dot(row), markersize=2.5, **look)
            if group:
                axes.plot([], [], label=label, **look)
        marked = [(row, BASELINE, "ink", "--") for row in drawn if row.is_baseline]
        if best is not None:
            marked.insert(0, (best, f"best (trial {best.number})", "second", "-"))
        for row, label, color, dashes in marked:
            axes.plot(
                *_by_epoch(row),
                dashes,
                color=_ink(color),
                linewidth=2.0,
                marker=_dot(row),
                markersize=4,
                zorder=5,
                label=label,
            )
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        values = [value for row in drawn for value in row.curve.values() if math.isfinite(value)]
        always = [value for row, *_ in marked for value in row.curve.values() if math.isfinite(value)]
        lower = _set_limit(axes, values, usual=values, always=always)
        n_lower = sum(max(row.curve.values()) < lower for row in drawn)
        axes.set_title(
            "Validation accuracy by epoch" + (f" ({n_lower} of {len(drawn)} trials stay lower)" if n_lower else "")
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        _legend(figure, axes)
        return save(figure, path)


def _points(
    axes: Axes, rows: Sequence[TrialRow], places: Mapping[int, float], *, lower: float, size: float = 5.0
) -> None:
    """Draw a point per trial that has an accuracy, by its kind; what lies below `lower` is drawn there as an arrow."""
    size = size if len(rows) <= 60 else 0.72 * size
    blue, quiet, paper = _ink("first"), _ink("quiet"), _ink("paper")
    hollow: dict[str, Any] = {"markerfacecolor": paper, "markeredgewidth": 1.1}
    star: dict[str, Any] = {"marker": "*", "color": _ink("ink"), "markersize": 11, "zorder": 5}
    looks: dict[str, dict[str, Any]] = {
        "pruned": {"marker": "s", "color": quiet, "markersize": 0.6 * size, "alpha": 0.7},
        "running": {"marker": "D", "color": quiet, "markersize": 0.9 * size, **hollow},
        "complete": {"marker": "o", "color": blue, "markersize": size, "alpha": 0.8},
        "above a limit": {"marker": "o", "color": blue, "markersize": size, **hollow},
        "lower than drawn": {"marker": "v", "color": quiet, "markersize": size, "clip_on": False},
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
        return "lower than drawn"
    return "above a limit" if above else row.state


def _limit(axes: Axes, rows: Iterable[TrialRow]) -> float:
    """Set the accuracies that an axis of points shows, and return the lowest."""
    rows = list(rows)
    known = [value for row in rows if (value := last_accuracy(row)) is not None]
    complete = [value for row in rows if (value := val_accuracy(row)) is not None]
    baseline = [value for row in rows if row.is_baseline and (value := last_accuracy(row)) is not None]
    return _set_limit(axes, known, usual=complete or known, always=baseline)


def _set_limit(axes: Axes, values: Sequence[float], *, usual: Sequence[float], always: Sequence[float]) -> float:
    """Set an axis so that a few hopeless trials do not flatten all others, and return the lowest accuracy it shows.

    Below the median of the usual values it has three times the room that the best of all values needs above it, and
    more where those that are to be seen always need it.
    """
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if not values:
        axes.set_yticks([])  # crosses on an axis from 0 to 100 % would read as 0 %
        return 0.0
    middle, highest = statistics.median(usual), max(values)
    lower = min([max(min(values), middle - max(3 * (highest - middle), 0.01)), *always])
    margin = max(0.07 * (highest - lower), 0.001)  # equal accuracies have a height, too
    axes.set_ylim(lower - margin, highest + margin)
    return lower


def _slice(axes: Axes, rows: Sequence[TrialRow], name: str, *, lower: float, log: bool | None) -> None:
    """Draw one panel: numbers along an axis; labels, and whole numbers if they are few, side by side."""
    values = {row.number: row.params[name] for row in rows if name in row.params}
    distinct = list(dict.fromkeys(values.values()))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    few = len(distinct) <= FEW_NUMBERS and all(isinstance(value, int) for value in distinct)
    if numeric and not few:
        _scale(axes, distinct, log=log)
        _points(axes, rows, {number: float(value) for number, value in values.items()}, lower=lower, size=4.0)
        return
    labels = list(dict.fromkeys(map(written, sorted(distinct) if numeric else sorted(distinct, key=written))))
    # The golden ratio spreads any run of trial numbers evenly, and the same way in every picture.
    spread = {number: 0.5 * ((number * 0.618034 + 0.5) % 1 - 0.5) for number in values}
    places = {number: labels.index(written(value)) + spread[number] for number, value in values.items()}
    room = max(30 // len(labels), 3)  # characters below one of them, written level
    turned = max(map(len, labels)) > room
    names = [_short(label, 12) for label in labels]
    axes.set_xticks(range(len(labels)), names, size=7 if len(labels) <= 8 else 5, rotation=35 if turned else 0)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    _points(axes, rows, places, lower=lower, size=4.0)


def _scale(axes: Axes, values: Sequence[float], *, log: bool | None = None) -> None:
    """Set up the x axis for numbers, labelled as they are typed; log None: two decades decide, as above."""
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


def _by_epoch(row: TrialRow) -> tuple[list[int], list[float]]:
    epochs = sorted(row.curve)
    return [epoch + 1 for epoch in epochs], [row.curve[epoch] for epoch in epochs]


def _dot(row: TrialRow) -> str | None:
    """Return the marker of a curve: a line of one epoch would not be seen."""
    return "o" if len(row.curve) == 1 else None


def _best_in_words(rows: Sequence[TrialRow]) -> str:
    best = best_trial(rows)
    if best is None:
        return "No trial within the limits has finished"
    words = f"Best: trial {best.number}, {val_accuracy(best):.2%}"
    baseline = next((row for row in rows if row.is_baseline and val_accuracy(row) is not None), None)
    if best.is_baseline:
        return f"{words} (params.yaml)"
    return words if baseline is None else f"{words}; params.yaml: {val_accuracy(baseline):.2%}"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _ink(name: str) -> str:
    return ink(name, dark=False)


def _legend(figure: Figure, *panels: Axes) -> None:
    """Write one legend below all panels, each label once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in entries}
    if entries:
        n_columns = len(entries) if len(entries) <= 5 else 4  # as many as fit into the width
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=n_columns)


def _say(figure: Figure, axes: Axes, words: str, path: Path) -> Path:
    """Save a picture of the words alone."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", color=_ink("quiet"), transform=axes.transAxes)
    return save(figure, path)
