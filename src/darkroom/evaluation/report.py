"""Write the results of an evaluation: tables for `dvc plots`, plots, and one page with all of them."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from darkroom.data.arrays.dataset import corrected, split_sizes
from darkroom.evaluation import figures
from darkroom.evaluation.candidates import CURVES, Answer, Candidate, data_uri
from darkroom.evaluation.earlier import Earlier, Search
from darkroom.evaluation.metrics import classification
from darkroom.evaluation.page import MARKER
from darkroom.figures import grid
from darkroom.figures.style import SPLITS
from darkroom.files.templates import templates
from darkroom.files.writing import write_csv
from darkroom.project.params import flatten
from darkroom.project.text import percent

PLOTTED = {  # tables of `dvc plots`, with their columns
    "confusion": ["candidate", "actual", "predicted"],
    "calibration": ["candidate", "confidence", "accuracy", "count"],
    "per_class": ["candidate", "class", "precision", "recall", "f1", "support"],
    "curves": ["candidate", "epoch", "split", "loss", "accuracy"],
    "tuning": ["candidate", "trial", "state", "val_accuracy", "best_val_accuracy"],
}


@dataclass(frozen=True)
class Picture:
    """A chart for the page in both themes, with its alternative text."""

    light: str
    dark: str
    alt: str


def draw(
    candidate: Candidate,
    labels: np.ndarray,
    folder: Path,
    *,
    classes: Sequence[str],
    calibration_bins: int,
    worst: Sequence[Answer],
) -> dict[str, Path]:
    """Draw every plot of a candidate into folder and return their paths by name."""
    recalls = [candidate.metrics["per_class"][name]["recall"] for name in classes]
    drawn = _draw_outcome(candidate, labels, folder, classes=classes, calibration_bins=calibration_bins)
    drawn["training_curves"] = figures.training_curves(
        candidate.history, folder / "training_curves.png", best_epoch=candidate.run["best_epoch"]
    )
    drawn["recall"] = figures.class_scores(recalls, classes, folder / "recall.png", label="recall")
    if worst:
        titles = [f"{error.label}\nas {error.predicted}\n{error.confidence:.1%} confidence" for error in worst]
        heading = f"Worst errors of {candidate.name}: true class, predicted class and confidence"
        images = [error.image for error in worst]
        drawn["worst_errors"] = grid.image_grid(images, titles, folder / "worst_errors.png", heading=heading)
    return drawn


def _draw_outcome(
    candidate: Candidate,
    labels: np.ndarray,
    folder: Path,
    *,
    classes: Sequence[str],
    calibration_bins: int,
    dark: bool = False,
) -> dict[str, Path]:
    counts = classification.confusion_matrix(candidate.probabilities.argmax(axis=1), labels, n_classes=len(classes))
    curve = classification.reliability_curve(candidate.probabilities, labels, n_bins=calibration_bins)
    ece = candidate.metrics["ece"]
    return {
        "confusion_matrix": figures.confusion_matrix(counts, classes, folder / "confusion_matrix.png", dark=dark),
        "reliability": figures.reliability_diagram(curve, folder / "reliability.png", ece=ece, dark=dark),
    }


def render(
    candidates: Sequence[Candidate],
    labels: np.ndarray,
    *,
    winner: str,
    manifest: Mapping[str, Any],
    calibration_bins: int,
    shown: Mapping[str, Any],
    drawn: Mapping[str, Mapping[str, Path]],
    earlier: Earlier,
) -> str:
    """Return the page as HTML; promote replaces MARKER by the decision.

    Args:
        candidates: at least one; compared in this order.
        labels: (n,), the true classes of the test images.
        winner: the name of the candidate that is shown in full.
        manifest: of the prepared data.
        shown: worst: the winner's worst errors; unsure: its least certain correct answers; heat: its heat maps, see
            heat.Heat.
        drawn: per candidate, the result of `draw`: the plots for light screens; those for dark ones are drawn here.
        earlier: reports of earlier stages.
    """
    best = next(candidate for candidate in candidates if candidate.name == winner)
    classes: list[str] = manifest["classes"]
    counts = classification.confusion_matrix(best.probabilities.argmax(axis=1), labels, n_classes=len(classes))
    environment = templates("darkroom.evaluation")
    environment.filters.update(percent=percent, number=_number, size=_size, short=_short, breakable=_breakable)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dark = _draw_outcome(best, labels, folder, classes=classes, calibration_bins=calibration_bins, dark=True)
        pictures = _pictures(best, counts, drawn[winner], dark)
        curves = [(each.name, _curves(each, drawn[each.name]["training_curves"], folder)) for each in candidates]
    return environment.get_template("report.html.j2").render(
        candidates=candidates,
        best=best,
        manifest=manifest,
        splits=split_sizes(manifest["counts"]),
        corrected=corrected(manifest),
        n_images=len(labels),
        n_errors=int(len(labels) - np.trace(counts)),
        confusions=_confusions(counts, classes),
        pictures=pictures,
        curves=curves,
        **shown,
        n_bins=calibration_bins,
        earlier=earlier,
        settings={each.name: flatten(each.run["params"]) for each in candidates},
        marker=MARKER,
    )


def in_words(metrics: Mapping[str, Any], *, n_images: int) -> str:
    """Return the accuracy on the n_images test images and on the recent ones, in one line."""
    measured = [("test", metrics["test_accuracy"], metrics["test_accuracy_ci95"], n_images)]
    if recent := metrics["recent"]:
        measured.append(("recent", recent["accuracy"], recent["accuracy_ci95"], recent["n_images"]))
    said = [
        f"{split} accuracy {accuracy:.4f}, 95% interval {low:.4f} to {high:.4f}, {n} images"
        for split, accuracy, (low, high), n in measured
    ]
    if metrics["share_answered"] < 1:
        wrong = metrics["error_answered"]
        of_these = "" if wrong is None else f", {wrong:.2%} of them wrongly"
        said.append(f"answers {metrics['share_answered']:.2%} of the test images{of_these}")
    if "coverage" in metrics:
        size = f"{metrics['mean_set_size']:.2f} classes on average"
        said.append(f"its prediction sets hold the true class of {metrics['coverage']:.2%}, {size}")
    return "; ".join(said)


def write_plots(
    candidates: Sequence[Candidate],
    labels: np.ndarray,
    folder: Path,
    *,
    classes: Sequence[str],
    calibration_bins: int,
    searches: Mapping[str, Search],
) -> None:
    """Write the tables of `dvc plots` into folder, with a column `candidate`, so that dvc.yaml names no candidates."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in PLOTTED}
    for candidate in candidates:
        for name, lines in _plotted(candidate, labels, classes=classes, calibration_bins=calibration_bins).items():
            tables[name] += [{"candidate": candidate.name, **line} for line in lines]
    for name, search in searches.items():
        tables["tuning"] += [{"candidate": name, **trial} for trial in search.trials]
    for name, columns in PLOTTED.items():
        write_csv(folder / f"{name}.csv", columns, [[line[column] for column in columns] for line in tables[name]])


def _plotted(
    candidate: Candidate, labels: np.ndarray, *, classes: Sequence[str], calibration_bins: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each table for one candidate, without the column `candidate`."""
    predicted, history = candidate.probabilities.argmax(axis=1), candidate.history
    curve = classification.reliability_curve(candidate.probabilities, labels, n_bins=calibration_bins)
    full = curve["count"] > 0
    bins = {name: curve[name][full].tolist() for name in ("confidence", "accuracy", "count")}
    return {
        "confusion": [
            {"actual": classes[label], "predicted": classes[answer]}
            for label, answer in zip(labels, predicted, strict=True)
        ],
        "calibration": [dict(zip(bins, line, strict=True)) for line in zip(*bins.values(), strict=True)],
        "per_class": [{"class": name, **found} for name, found in candidate.metrics["per_class"].items()],
        "curves": [
            {"epoch": epoch, "split": SPLITS[split], "loss": loss, "accuracy": accuracy}
            for split in ("train", "val")
            for epoch, loss, accuracy in zip(
                map(int, history["epoch"]), history[f"{split}_loss"], history[f"{split}_accuracy"], strict=True
            )
        ],
    }


def _pictures(
    best: Candidate, counts: np.ndarray, light: Mapping[str, Path], dark: Mapping[str, Path]
) -> dict[str, Picture]:
    wrong = int(counts.sum() - np.trace(counts))
    alts = {
        "confusion_matrix": f"Confusion matrix of {len(counts)} classes: {wrong} of {counts.sum()} test images are off "
        "the diagonal. The table lists the most common confusions.",
        "reliability": "Reliability diagram: accuracy against confidence; the mean distance from the diagonal, "
        f"weighted by images, is {best.metrics['ece']:.2%}.",
    }
    return {name: _picture(light[name], dark[name], alt) for name, alt in alts.items()}


def _curves(candidate: Candidate, light: Path, folder: Path) -> Picture:
    history = candidate.history
    last = ", ".join(f"{name.replace('_', ' ')} {history[name][-1]:.4f}" for name in CURVES)
    dark = figures.training_curves(
        history, folder / f"{candidate.name}.png", best_epoch=candidate.run["best_epoch"], dark=True
    )
    alt = f"Loss and accuracy of {candidate.name} over {len(history['epoch'])} epochs; the last: {last}."
    return _picture(light, dark, alt)


def _picture(light: Path, dark: Path, alt: str) -> Picture:
    return Picture(light=data_uri(light.read_bytes()), dark=data_uri(dark.read_bytes()), alt=alt)


def _confusions(counts: np.ndarray, classes: Sequence[str], *, most: int = 8) -> list[dict[str, Any]]:
    """Return the commonest confusions, commonest first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(position), len(classes)) for position in order]
    return [
        {"label": classes[row], "predicted": classes[column], "count": int(wrong[row, column])}
        for row, column in pairs
        if wrong[row, column]
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _breakable(name: str) -> Markup:
    """Return a name that a browser may break after underscores, slashes and dots, but not within words."""
    return Markup(re.sub(r"([_/.]+)", r"\1<wbr>", str(escape(name))))  # noqa: S704 - it is escaped


def _short(cell: str) -> str:
    """Return a cell of a table; numbers are rounded to 4 digits."""
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
