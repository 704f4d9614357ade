"""The plot of a learning-rate range test."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from darkroom.figures.style import WIDTH, ink, save, style

if TYPE_CHECKING:
    from darkroom.lr_find.range_test import Finding


def learning_rate_test(found: "Finding", path: Path, *, heading: str = "") -> Path:
    """Draw the loss over the learning rate of a range test, mark the rates to choose from, and return path."""
    learning_rates, smoothed = found.learning_rates, found.smoothed
    first, second, quiet = (ink(name) for name in ("first", "second", "quiet"))
    with style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(learning_rates, found.losses, ".", color=quiet, markersize=3)  # of single batches
        axes.plot(learning_rates, smoothed, color=first)
        # Interpolated, because a rounded rate need not be one that was tried.
        marks = [(found.suggestion, "steepest fall", "o"), (found.greatest, "lowest loss", "v")]
        if found.cautious < found.suggestion:
            marks.insert(0, (found.cautious, "cautious", "s"))
        for rate, name, marker in marks:
            height = float(np.interp(np.log(rate), np.log(learning_rates), smoothed))
            axes.axvline(rate, color=second, linewidth=1, linestyle=":")
            axes.plot([rate], [height], marker, color=second, markersize=6, label=f"{name}: {rate:g}")
        low, high = float(smoothed.min()), float(max(smoothed[0], np.median(smoothed)))
        margin = max(0.15 * (high - low), 0.01)  # also for a constant loss
        axes.set(
            xscale="log",
            xlim=(learning_rates[0] / 1.2, learning_rates[-1] * 1.2),
            ylim=(low - margin, high + 2 * margin),  # a loss that diverges would flatten the fall
            xlabel="learning rate",
            ylabel="training loss (points: single batches)",
            title=heading,
        )
        axes.xaxis.set_major_locator(LogLocator(numticks=20))
        # 1e-6, as it is typed; powers of ten would need TeX.
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}".replace("e-0", "e-")))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid()
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save(figure, path)
