"""Charts of an evaluation: training curves, confusion matrix, reliability, scores per class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter, SymmetricalLogLocator

from darkroom.errors import DataError
from darkroom.figures.style import SPLITS, WIDTH, clean, ink, save, style


def training_curves(
    history: Mapping[str, Sequence[float]], path: Path, *, best_epoch: int | None = None, dark: bool = False
) -> Path:
    """Draw loss and accuracy per epoch, training against validation, side by side, and return path.

    Args:
        history: the columns of history.csv: epoch (counted from 1), train_loss, val_loss, train_accuracy, val_accuracy.
        best_epoch: the epoch whose weights were kept, to mark; None: no mark.
    """
    epochs = np.asarray(history["epoch"])
    with style(dark=dark):
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        both = figure.subplots(1, 2)
        for axes, metric, title in zip(both, ("loss", "accuracy"), ("Loss", "Accuracy"), strict=True):
            for split, color, dashes in (
                ("train", ink("second", dark=dark), "--"),
                ("val", ink("first", dark=dark), "-"),
            ):
                marker = "o" if len(epochs) <= 30 else None
                values = history[f"{split}_{metric}"]
                axes.plot(epochs, values, dashes, color=color, marker=marker, markersize=3.5, label=SPLITS[split])
            if best_epoch is not None:
                axes.axvline(best_epoch, color=ink("quiet", dark=dark), linewidth=1, linestyle=":", label="epoch kept")
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.margins(x=0.04)
            axes.grid(axis="y")
        figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save(figure, path)


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], path: Path, *, dark: bool = False) -> Path:
    """Draw the share of each true class (rows) that was predicted as each class (columns), and return path.

    With up to 20 classes every cell shows its number of images; with more than about 60, only some names are written.

    Args:
        counts: int (classes, classes), returned by classification.confusion_matrix.
    """
    n_classes = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [clean(name, 14) for name in classes]
    size = float(np.clip(0.42 * n_classes + 1.6, 3.6, WIDTH))
    with style(dark=dark, texts=names):
        figure = Figure(figsize=(size + 0.6, size), layout="constrained")
        axes = figure.add_subplot()
        # The square root, and a first colour that differs from the paper, make rare confusions visible.
        scale = LinearSegmentedColormap.from_list("shares", [ink("faint", dark=dark), ink("first", dark=dark)])
        picture = axes.imshow(
            np.ma.masked_equal(shares, 0), cmap=scale, norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest"
        )
        bar = figure.colorbar(picture, ax=axes, fraction=0.045, pad=0.02, ticks=[0.01, 0.1, 0.25, 0.5, 1])
        bar.ax.set_yticklabels(["1%", "10%", "25%", "50%", "100%"])
        bar.set_label("fraction of the true class")
        bar.outline.set_visible(False)
        step = -(-n_classes // 60)
        shown = range(0, n_classes, step)
        text_size = float(np.clip(260 / max(n_classes, 1), 4.5, 8)) if n_classes > 20 else 8
        longest = max(len(name) for name in names)
        turned = 90 if n_classes > 20 or longest * n_classes > 60 else 0
        axes.set_xticks(shown, [names[number] for number in shown], rotation=turned, size=text_size)
        axes.set_yticks(shown, [names[number] for number in shown], size=text_size)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="true")
        if n_classes <= 20:
            _write_counts(axes, counts, shares, dark=dark)
            axes.set_xticks(np.arange(-0.5, n_classes), minor=True)
            axes.set_yticks(np.arange(-0.5, n_classes), minor=True)
            axes.grid(which="minor")
            axes.tick_params(which="minor", length=0)
        return save(figure, path)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray, *, dark: bool) -> None:
    size = 8 if counts.max() < 10_000 and len(counts) <= 12 else 6.5
    for row, column in zip(*np.nonzero(counts), strict=True):
        on_color = shares[row, column] > 0.3
        color = ink("on_first" if on_color else "ink", dark=dark)
        axes.text(column, row, f"{counts[row, column]:d}", ha="center", va="center", size=size, color=color)


def reliability_diagram(curve: Mapping[str, np.ndarray], path: Path, *, ece: float, dark: bool = False) -> Path:
    """Draw accuracy against confidence per bin above the number of images per bin, and return path.

    Args:
        curve: returned by classification.reliability_curve.
        ece: the expected calibration error, for the title.
    """
    full = curve["count"] > 0
    width = curve["upper"] - curve["lower"]
    with style(dark=dark):
        figure = Figure(figsize=(4.6, 4.8), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        quiet, first = ink("quiet", dark=dark), ink("first", dark=dark)
        top.plot([0, 1], [0, 1], "--", color=quiet, linewidth=1, label="perfectly calibrated")
        heights = curve["accuracy"][full]
        bars = {"align": "edge", "edgecolor": ink("paper", dark=dark), "linewidth": 1}
        top.bar(
            curve["lower"][full], heights, width[full], color=first, alpha=0.45, label="accuracy in the bin", **bars
        )
        top.plot(
            curve["confidence"][full],
            heights,
            "o",
            color=ink("second", dark=dark),
            markersize=4,
            label="mean confidence",
        )
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"Calibration error (ECE) {ece:.2%}")
        bottom.bar(curve["lower"], curve["count"], width, color=quiet, **bars)
        bottom.set_yscale("symlog", linthresh=1)  # most images are in the last bin; the others would be invisible
        bottom.set(xlabel="confidence", ylabel="images")
        bottom.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=[1.0]))
        bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        bottom.set_ylim(0, max(10.0, 2.0 * float(curve["count"].max())))
        for axes in (top, bottom):
            axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2, handlelength=1.4)
        return save(figure, path)


def class_scores(values: Sequence[float | None], classes: Sequence[str], path: Path, *, label: str) -> Path:
    """Draw one dot per class, lowest value first, and return path; beyond 40 classes the 40 lowest.

    Args:
        values: in [0, 1]; classes with None are left out.
        label: name of the values, for example "recall".

    Raises:
        DataError: no class has a value.
    """
    ranked = sorted((value, name) for value, name in zip(values, classes, strict=True) if value is not None)
    if not ranked:
        raise DataError(f"{path}: no class has a value of {label}; nothing to plot")
    shown = ranked[:40]
    names = [clean(name, 24) for _, name in shown]
    with style(texts=names):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.21 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(shown))
        heights = [value for value, _ in shown]
        first = ink("first")
        axes.plot(heights, places, "o", color=first, markersize=6)
        for place, value in enumerate(heights):
            axes.annotate(f"{value:.1%}", (value, place), (7, 0), textcoords="offset points", va="center", size=7.5)
        axes.set_yticks(places, names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        start = max(0.0, min(heights) - 0.05)
        axes.set(xlim=(start, 1 + 0.08 * (1 - start)), ylim=(len(shown) - 0.4, -0.6), xlabel=label)
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        if len(shown) < len(ranked):
            axes.set_title(f"the {len(shown)} lowest of {len(ranked)} classes")
        axes.grid()
        return save(figure, path)
