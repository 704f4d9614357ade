"""Pictures of what is tried before a training: plain arrays in, a PNG out."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from darkroom.figures.style import WIDTH, ink, save, style


def learning_rate_test(
    learning_rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    path: Path,
    *,
    suggestion: float,
    cautious: float,
    greatest: float,
    heading: str = "",
) -> Path:
    """Draw the loss over a rising learning rate, mark the rates to choose from, and return path.

    Args:
        learning_rates: (n,) rising, above 0.
        losses: (n,) of each batch.
        smoothed: (n,) of the losses.
        suggestion: the rate of the steepest fall.
        cautious: a lower one; drawn where it is not the suggestion.
        greatest: the rate of the smallest loss.
    """
    first, second, quiet = (ink(name) for name in ("first", "second", "quiet"))
    with style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(learning_rates, losses, ".", color=quiet, markersize=3)  # of single batches
        axes.plot(learning_rates, smoothed, color=first)
        # The interpolated height puts the marks on the line: rounded, no rate need be one that was tried.
        marks = [(suggestion, "steepest fall", "o"), (greatest, "lowest loss", "v")]
        if cautious < suggestion:
            marks.insert(0, (cautious, "cautious", "s"))
        for rate, name, marker in marks:
            height = float(np.interp(np.log(rate), np.log(learning_rates), smoothed))
            axes.axvline(rate, color=second, linewidth=1, linestyle=":")
            axes.plot([rate], [height], marker, color=second, markersize=6, label=f"{name}: {rate:g}")
        low, high = float(smoothed.min()), float(max(smoothed[0], np.median(smoothed)))
        margin = max(0.15 * (high - low), 0.01)  # a loss that never moves has a height, too
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
