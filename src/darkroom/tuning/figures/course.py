"""Plots of the course of a search: its history, the curves of its trials, and accuracy against a cost.

Every plot can be drawn at any time of a search: without a trial, or without a finished one, it has a sentence instead.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from darkroom.figures.style import LIGHT, WIDTH, save, style
from darkroom.tuning.figures.points import (
    BASELINE,
    draw_points,
    legend,
    limit_accuracy,
    limit_values,
    save_words,
    scale_numbers,
)
from darkroom.tuning.rows import TrialRow, best_so_far, best_trial, pareto_front, val_accuracy

COST_LABELS = {"latency_ms": "latency per image, ms", "model_bytes": "size of the model"}


def history(rows: Sequence[TrialRow], path: Path) -> Path:
    """Draw the validation accuracy of every trial and the best so far, and return path.

    For pruned and running trials it is the last reported accuracy. Failed and killed trials are crosses at the bottom.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        shown = [row for row in rows if row.state != "waiting"]
        if not shown:
            return save_words(figure, axes, "No trial has started yet.", path)
        lower = limit_accuracy(axes, shown)
        draw_points(axes, shown, {row.number: float(row.number) for row in shown}, lower=lower)
        broken = [row.number for row in shown if row.state in ("failed", "killed")]
        red = LIGHT["second"]
        if broken:
            cross: dict[str, Any] = {"color": red, "markersize": 5, "markeredgewidth": 1.2, "clip_on": False}
            bottom = axes.get_xaxis_transform()  # x of the data, y from 0 at the bottom of the axes to 1 at the top
            axes.plot(broken, [0.0] * len(broken), "x", transform=bottom, label="failed or killed", zorder=4, **cross)
        best = best_so_far(shown)
        if best:
            last = max(row.number for row in shown)
            steps = [*best.items(), (last + 0.5, best[max(best)])]
            axes.plot(*zip(*steps, strict=True), "-", drawstyle="steps-post", color=red, label="best so far")
        baseline = next((value for row in shown if row.is_baseline and (value := val_accuracy(row)) is not None), None)
        if baseline is not None:
            axes.axhline(baseline, color=LIGHT["quiet"], linewidth=1, linestyle=":")
        first, last = min(row.number for row in shown), max(row.number for row in shown)
        margin = max(0.6, 0.02 * (last - first))
        axes.set(xlim=(first - margin, last + margin), xlabel="trial", ylabel="validation accuracy")
        axes.set_title(_best_in_words(shown))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        legend(figure, axes)
        return save(figure, path)


def pareto(
    rows: Sequence[TrialRow], cost: str, path: Path, *, chosen: int | None = None, limit: float | None = None
) -> Path:
    """Draw the validation accuracy of complete trials over a cost, join the Pareto front, and return path.

    Args:
        rows: the trials; those above a limit are hollow.
        cost: "latency_ms" or "model_bytes".
        chosen: number of the chosen trial, to mark.
        limit: the maximum cost, to draw.
    """
    shown = [row for row in rows if val_accuracy(row) is not None and cost in row.metrics]
    with style():
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        axes = figure.add_subplot()
        if not shown:
            return save_words(figure, axes, "No trial has finished yet.", path)
        lower = limit_accuracy(axes, shown)
        front = pareto_front(shown, cost)
        costs = {row.number: row.metrics[cost] for row in shown}
        scale_numbers(axes, list(costs.values()) + ([limit] if limit is not None else []))
        if front:
            along = [max(row.metrics["val_accuracy"], lower) for row in front]
            line: dict[str, Any] = {"drawstyle": "steps-post", "color": LIGHT["second"], "linewidth": 1.4, "zorder": 2}
            axes.plot([costs[row.number] for row in front], along, "-", label="Pareto front", **line)
        draw_points(axes, shown, costs, lower=lower)
        kept = next((row for row in shown if row.number == chosen), None)
        if kept is not None:
            ring: dict[str, Any] = {
                "markersize": 13,
                "markerfacecolor": "none",
                "markeredgecolor": LIGHT["second"],
                "zorder": 6,
            }
            height = max(kept.metrics["val_accuracy"], lower)
            axes.plot([costs[kept.number]], [height], "o", label=f"chosen (trial {kept.number})", **ring)
        if limit is not None:
            axes.axvline(limit, color=LIGHT["quiet"], linewidth=1, linestyle="--", label="limit")
        axes.set(xlabel=COST_LABELS[cost], ylabel="validation accuracy")
        axes.set_title(f"On the Pareto front: {len(front)} of {len(shown)} trials")
        if cost == "model_bytes":
            axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
        axes.grid()
        legend(figure, axes)
        return save(figure, path)


def curves(rows: Sequence[TrialRow], path: Path) -> Path:
    """Draw the validation accuracy of every trial by epoch, the best and the baseline on top, and return path."""
    drawn = [row for row in rows if row.curve]
    best = best_trial(drawn)
    with style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        if not drawn:
            return save_words(figure, axes, "No trial has finished an epoch yet.", path)
        thin: dict[str, Any] = {"linewidth": 0.7, "color": LIGHT["quiet"]}
        full: dict[str, Any] = {"linewidth": 1.1, "color": LIGHT["first"]}
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
                color=LIGHT[color],
                linewidth=2.0,
                marker=_dot(row),
                markersize=4,
                zorder=5,
                label=label,
            )
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        values = [value for row in drawn for value in row.curve.values() if math.isfinite(value)]
        always = [value for row, *_ in marked for value in row.curve.values() if math.isfinite(value)]
        lower = limit_values(axes, values, usual=values, always=always)
        n_lower = sum(max(row.curve.values()) < lower for row in drawn)
        axes.set_title(
            "Validation accuracy by epoch" + (f" ({n_lower} of {len(drawn)} trials below the axis)" if n_lower else "")
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        legend(figure, axes)
        return save(figure, path)


def _by_epoch(row: TrialRow) -> tuple[list[int], list[float]]:
    epochs = sorted(row.curve)
    return epochs, [row.curve[epoch] for epoch in epochs]


def _dot(row: TrialRow) -> str | None:
    """Return the marker of a curve, because a line of one epoch would be invisible."""
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
