"""The plot of a drift comparison: the reference and the window of each measure, drawn over each other.

With true labels, the last panel is the accuracy of served predictions per week.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from darkroom.figures.style import WIDTH, clean, ink, save, style
from darkroom.monitoring.accuracy import Accuracy
from darkroom.monitoring.drift import Check, Report, Sample

N_BINS = 40
N_CLASSES = 10  # maximum number of bars, for the most shifted classes
N_WEEKS = 6  # with their date
LONGEST_NAME = 14  # characters
N_COLUMNS = 2


def drift(
    report: Report,
    reference: Sample,
    window: Sample,
    path: Path,
    *,
    weeks: Sequence[Accuracy] = (),
    heading: str = "",
) -> Path:
    """Draw one panel per check, with its verdict, and return path.

    Args:
        weeks: of ServedAccuracy; empty: no panel.
    """
    n_panels = max(1, len(report.checks) + bool(weeks))
    n_rows = -(-n_panels // N_COLUMNS)
    names = [clean(name, LONGEST_NAME) for check in report.checks for name in check.classes[:N_CLASSES]]
    with style(texts=names):
        figure = Figure(figsize=(WIDTH, 0.9 + 2.3 * n_rows), layout="constrained")
        places = figure.add_gridspec(n_rows, N_COLUMNS)
        cells = [divmod(number, N_COLUMNS) for number in range(n_panels)]
        # The last panel takes the rest of its row.
        panels = [
            figure.add_subplot(places[row, column:] if number == n_panels - 1 else places[row, column])
            for number, (row, column) in enumerate(cells)
        ]
        for axes, check in zip(panels, report.checks, strict=False):
            if check.name == "label":
                _bars(axes, check)
            else:
                _outlines(axes, check, reference.measures[check.name], window.measures[check.name])
            axes.set_title(f"{check.name}: {_verdict(check)}")
        if weeks:
            _accuracy(panels[len(report.checks)], weeks)
        if not report.checks and not weeks:
            panels[0].set_axis_off()
            panels[0].text(0.5, 0.5, "nothing to compare", ha="center", va="center")
        if heading:
            figure.suptitle(heading, x=0.01, ha="left", size=9, color=ink("quiet"), parse_math=False)
        faint, first, second = (ink(name) for name in ("faint", "first", "second"))
        sides = [Patch(facecolor=faint, edgecolor=first, label="reference"), Patch(color=second, label="window")]
        figure.legend(handles=sides, loc="outside lower center", ncols=2)
        return save(figure, path)


def _outlines(axes: Axes, check: Check, reference: np.ndarray, window: np.ndarray) -> None:
    both = np.concatenate([reference, window])
    low, high = np.quantile(both, (0.002, 0.998)) if len(both) else (0.0, 1.0)  # outliers would flatten the rest
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, N_BINS + 1)
    shares = [
        np.histogram(np.clip(values, low, high), edges)[0] / max(1, len(values)) for values in (reference, window)
    ]
    axes.stairs(shares[0], edges, fill=True, color=ink("faint"))
    axes.stairs(shares[0], edges, color=ink("first"), linewidth=0.8)
    axes.stairs(shares[1], edges, color=ink("second"), linewidth=1.6)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(0)
    missing = [side for side, values in (("reference", reference), ("window", window)) if not len(values)]
    if missing:
        axes.text(0.5, 0.5, f"no rows in the {' and the '.join(missing)}", transform=axes.transAxes, ha="center")
    axes.set_xlabel(_UNITS.get(check.name, check.name))


def _bars(axes: Axes, check: Check) -> None:
    n = min(N_CLASSES, len(check.classes))
    at = np.arange(n)
    faint, first, second = (ink(name) for name in ("faint", "first", "second"))
    axes.barh(at - 0.2, check.reference[:n], height=0.38, color=faint, edgecolor=first, linewidth=0.8)
    axes.barh(at + 0.2, check.window[:n], height=0.38, color=second)
    axes.set_yticks(at, [clean(name, LONGEST_NAME) for name in check.classes[:n]], parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    more = f", the {n} of {len(check.classes)} classes with the largest shift" if len(check.classes) > n else ""
    axes.set_xlabel(f"fraction of the images{more}")


def _accuracy(axes: Axes, weeks: Sequence[Accuracy]) -> None:
    """Draw a point per week and version with its interval; the versions of a week stand side by side."""
    names = sorted({str(one.week) for one in weeks})
    versions = sorted({one.version for one in weeks}, key=lambda version: (len(version), version))
    colors = [ink(name) for name in ("second", "first", "quiet")]
    for number, version in enumerate(versions):
        found = [one for one in weeks if one.version == version]
        aside = 0.5 * (number + 0.5) / len(versions) - 0.25
        at = [names.index(str(one.week)) + aside for one in found]
        accuracy = np.array([one.accuracy for one in found])
        reach = np.abs(np.array([one.ci95 for one in found]).T - accuracy)
        color = colors[number % len(colors)]
        axes.errorbar(
            at, accuracy, yerr=reach, fmt="o", markersize=4, capsize=2, color=color, label=f"version {version}"
        )
    shown = np.unique(np.linspace(0, len(names) - 1, min(len(names), N_WEEKS)).astype(int))
    axes.set_xticks(shown, [names[index][5:] for index in shown])
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("week of (month-day); bars: 95 % interval")
    axes.set_title(f"accuracy by {sum(one.n_labelled for one in weeks)} true labels")
    axes.legend(fontsize="small")


def _verdict(check: Check) -> str:
    if check.drifted is None:
        return "too few rows"
    return f"{'drifted' if check.drifted else 'no drift'} (PSI {check.psi:.2f})"


_UNITS = {
    "brightness": "mean, 0 black to 1 white",
    "contrast": "standard deviation, 0 to 0.5",
    "sharpness": "variance of the Laplacian",
    "size": "square root of the area, pixels",
    "confidence": "probability of the prediction",
    "familiarity": "share of known images at least as strange",
}
