"""Retrain if a trigger fires, leave the decision to `promote`, and send notifications.

If a run fails, it restores champion, data and dvc.lock; if it is killed, the next run does, which then resumes from
DVC's cache and the checkpoints.
"""

import json
import time
from pathlib import Path
from typing import Any

from darkroom.errors import DarkroomError, LockedError
from darkroom.files.writing import write_text
from darkroom.operations.notifications import FAILED, LOCKED, event_of, is_told, notify
from darkroom.operations.params import Order
from darkroom.operations.single_flight import single_flight
from darkroom.operations.steps import Retraining
from darkroom.project.console import say

REPORT = Path("reports/retrain.json")


def retrain(order: Order) -> dict[str, Any]:
    """Retrain once and return the report, which is also written to reports/retrain.json.

    Its decision is `nothing` if no trigger fired, `locked` if somebody runs DVC by hand, else that of `promote`.

    Raises:
        LockedError: another run is active, or somebody runs DVC by hand.
        DarkroomError: the run failed; the report has the error and the decision `failed`, or that of `promote` if only
            the push failed.
    """
    with single_flight("darkroom retrain") as owner:
        began = time.monotonic()
        report = {
            "decision": FAILED,
            "registered_model": order.model,
            "mode": order.params.mode,
            "started": owner["started"],
            "seconds": 0.0,
            "who": owner["who"],
            "triggers": [],
            "trained": [],
            "reasons": [],
            "version_before": None,
            "version_after": None,
            "commit": None,
            "pushed": False,
            "error": None,
        }
        try:
            Retraining(order, owner, report).run()
        except BaseException as error:
            known = isinstance(error, DarkroomError | OSError)
            report["error"] = str(error) if known else f"stopped by {type(error).__name__}: {error}"
            if isinstance(error, LockedError):
                report["decision"] = LOCKED
            raise
        finally:
            report["seconds"] = round(time.monotonic() - began, 1)
            _tell(order, report)
    return report


def _tell(order: Order, report: dict[str, Any]) -> None:
    """Send the report, then write it, so that a failure is reported even if the disk is full."""
    report["notified"] = []
    event, told = event_of(report), order.params.notify
    if is_told(event, report, heartbeat=told.heartbeat):
        report["notified"] = notify(
            event, report, command=told.command, webhook=told.webhook, timeout=told.timeout_seconds, root=order.root
        )
    for result in report["notified"]:
        if not result["sent"]:
            say(f"retrain: could not notify {result['to']}: {result['error']}")
    try:
        write_text(order.root / REPORT, json.dumps(report, indent=2) + "\n")
    except OSError as error:  # logged, because raising it would hide the first error
        say(f"retrain: {REPORT} cannot be written: {error}")
