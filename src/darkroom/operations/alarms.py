"""Alarms from the log of predictions, drift and low accuracy, and their acknowledgement."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import DataError, ParamsError
from darkroom.monitoring.acknowledgement import Acknowledgement, read_acknowledgement, write_acknowledgement
from darkroom.operations import triggers
from darkroom.operations.params import RetrainParams
from darkroom.operations.triggers import Trigger
from darkroom.project.locks import whoami
from darkroom.registry import versions

if TYPE_CHECKING:
    from darkroom.monitoring.accuracy import Accuracy
    from darkroom.monitoring.samples import Comparison


def look(params: RetrainParams, *, root: Path, model: str, now: datetime) -> list[Trigger]:
    """Return the triggers drift and recent_accuracy; acknowledged alarms do not fire.

    Args:
        root: of the repository.
        model: the registered name.

    Raises:
        DataError: the log, its feedback or its acknowledgement cannot be read.
        RegistryError: the version in the log cannot be loaded.
    """
    if params.drift_log is None or not (root / params.drift_log).is_dir():
        return [triggers.no_log(params.drift_log), _recent_accuracy(params, None)]
    found, champion = _inspected(params, root=root, model=model, now=now)
    known = read_acknowledgement(root / params.drift_log)
    return [
        triggers.acknowledged(one, known, champion=champion, data=found.data, now=now)
        for one in _alarms(params, found, champion)
    ]


def acknowledge(
    params: RetrainParams, *, root: Path, model: str, reason: str, days: float, now: datetime
) -> Acknowledgement:
    """Acknowledge the present alarms in the log's directory, where the triggers read it.

    Raises:
        ParamsError: retrain.drift_log is null.
        DataError: there is no alarm, or the log cannot be read or written.
    """
    if params.drift_log is None:
        raise ParamsError("params.yaml: retrain.drift_log is null, so there is no alarm to acknowledge; set it")
    found, champion = _inspected(params, root=root, model=model, now=now)
    looked = _alarms(params, found, champion)
    alarms = [name for trigger in looked if trigger.fired for name in trigger.numbers["alarms"]]
    if not alarms:
        raise DataError(f"there is no alarm to acknowledge. {' '.join(trigger.reason for trigger in looked)}")
    until = now + timedelta(days=days)
    at, end = (moment.isoformat(timespec="seconds") for moment in (now, until))
    written = Acknowledgement(alarms, champion, found.data, at, end, whoami(), reason)
    write_acknowledgement(root / params.drift_log, written)
    return written


def _inspected(params: RetrainParams, *, root: Path, model: str, now: datetime) -> "tuple[Comparison, str | None]":
    """Return the comparison of the last days, and the champion's version."""
    from darkroom.monitoring.samples import inspect  # imports OpenCV

    found = inspect(
        root / str(params.drift_log),
        root=root,
        package_of=lambda number: versions.load(versions.find(model, version=number)),
        since=now - timedelta(days=params.drift_days),
    )
    return found, versions.read(model).aliases.get("champion")


def _alarms(params: RetrainParams, found: "Comparison", champion: str | None) -> list[Trigger]:
    return [
        triggers.drift(found.report.as_dict()),
        _recent_accuracy(params, found.served.of(champion)),
    ]


def _recent_accuracy(params: RetrainParams, served: "Accuracy | None") -> Trigger:
    return triggers.recent_accuracy(served, minimum=params.min_recent_accuracy, n_least=params.min_labelled_images)
