"""The accuracy of served predictions, from the prediction log and true labels, joined by image content."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from darkroom.evaluation.metrics.classification import accuracy_interval
from darkroom.monitoring.feedback import SHA256, TrueLabel

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a version on the images with a true label. Each image counts once.

    Attributes:
        version: of the registered model.
        week: its Monday (UTC, ISO format), by the time of the prediction; None: the whole window.
        n_labelled, n_correct: numbers of images.
        ci95: the score interval of the accuracy (Wilson).
    """

    version: str
    week: str | None
    n_labelled: int
    n_correct: int
    accuracy: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class ServedAccuracy:
    """The result of `served_accuracy`.

    Attributes:
        versions, weeks: per version, and per version and week.
        n_images: number of images in the window with a true label.
        n_unmatched: number of true labels for images outside the window.
        n_conflicting: number of images with contradicting true labels; the last one counts.
        n_damaged: number of truncated lines of feedback.
    """

    versions: Sequence[Accuracy]
    weeks: Sequence[Accuracy]
    n_images: int
    n_unmatched: int
    n_conflicting: int
    n_damaged: int

    def of(self, version: str | None) -> Accuracy | None:
        """Return the accuracy of a version, None if none of its images has a true label."""
        return next((one for one in self.versions if one.version == version), None)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a dict for JSON."""
        return asdict(self)

    @property
    def notes(self) -> list[str]:
        """Remarks on labels that were ignored or replaced."""
        counted = {
            "true labels are of an image that the window does not have; they are ignored.": self.n_unmatched,
            "images have true labels that contradict each other; the last one counts.": self.n_conflicting,
            "lines of the feedback were cut short and are ignored.": self.n_damaged,
        }
        return [f"{n} {sentence}" for sentence, n in counted.items() if n]


def served_accuracy(rows: "pa.Table", labels: Sequence[TrueLabel], *, n_damaged: int = 0) -> ServedAccuracy:
    """Return the accuracy of each version in a window of its prediction log.

    Args:
        rows: of the log, see log.read.
        labels: oldest first; the last one of an image counts.
        n_damaged: see ServedAccuracy.
    """
    import pandas as pd

    frame = rows.select(["id", "time", "version", "label", "request_id", "position"]).to_pandas()
    true, n_unmatched, n_conflicting = true_labels(frame, labels)
    seen = frame[frame["id"].isin(true.keys())]
    days = seen["time"].dt.tz_convert("UTC").dt.normalize()
    monday = days - pd.to_timedelta(days.dt.day_of_week, unit="D")
    seen = seen.assign(correct=seen["label"] == seen["id"].map(true), week=monday.dt.strftime("%Y-%m-%d"))
    versions = _accuracies(seen.drop_duplicates(["version", "id"]), ["version"])
    weeks = _accuracies(seen.drop_duplicates(["version", "week", "id"]), ["version", "week"])
    return ServedAccuracy(versions, weeks, seen["id"].nunique(), n_unmatched, n_conflicting, n_damaged)


def true_labels(frame: "pd.DataFrame", labels: Sequence[TrueLabel]) -> tuple[dict[str, str], int, int]:
    """Return the true labels by image id, the number of labels without an image, and of images with conflicts.

    Args:
        frame: rows of the log with id, request_id and position.
        labels: oldest first.
    """
    known, asked = {*frame["id"]}, _asked(frame, {label.id for label in labels if not SHA256.fullmatch(label.id)})
    true: dict[str, str] = {}
    conflicting, n_unmatched = set[str](), 0
    for label in labels:
        image = label.id if label.id in known else _only(asked.get(label.id, {}), label.position)
        if image is None:
            n_unmatched += 1
            continue
        if true.get(image, label.label) != label.label:
            conflicting.add(image)
        true[image] = label.label
    return true, n_unmatched, len(conflicting)


def _asked(frame: "pd.DataFrame", requests: set[str]) -> dict[str, dict[int, set[str]]]:
    """Return per request the ids by position of the image: two if a client used a request id twice."""
    found: dict[str, dict[int, set[str]]] = {}
    rows = frame[frame["request_id"].isin(requests)]
    for request, position, image in zip(rows["request_id"], rows["position"], rows["id"], strict=True):
        found.setdefault(request, {}).setdefault(int(position), set()).add(image)
    return found


def _only(images: Mapping[int, set[str]], position: int | None) -> str | None:
    """Return the image that a request and a position identify, None unless it is exactly one."""
    meant = images.get(position, set()) if position is not None else {one for ids in images.values() for one in ids}
    return next(iter(meant)) if len(meant) == 1 else None


def _accuracies(seen: "pd.DataFrame", by: list[str]) -> list[Accuracy]:
    found = []
    for _, rows in seen.groupby(by):
        right = rows["correct"].to_numpy(bool)
        version, week = rows["version"].iloc[0], rows["week"].iloc[0] if "week" in by else None
        accuracy, ci95 = float(right.mean()), accuracy_interval(right)
        found.append(Accuracy(version, week, len(right), int(right.sum()), accuracy, ci95))
    return sorted(found, key=lambda one: (one.week or "", len(one.version), one.version))
