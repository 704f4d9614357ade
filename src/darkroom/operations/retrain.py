"""Train again where something calls for it, leave the decision to `promote`, and tell who wants to know.

Until a run is through, its failure or death leaves champion, data and dvc.lock as they were: at once where it can still
act, else by the next run, which then goes on with what DVC's cache and the checkpoints hold.
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
    """Return the report of one run, which is also in reports/retrain.json.

    decision is `nothing` where no trigger fired, `locked` where somebody runs DVC by hand, else what `promote` decided.

    Raises:
        LockedError: another run is at work, or somebody runs DVC by hand.
        DarkroomError: whatever went wrong; the report says it too, with decision `failed`, or with the decision of
            `promote` where all that failed is the push.
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
    """Send the report to those who want to know, and write it: a full disk must not keep a failure from them."""
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
    except OSError as error:  # raised, it would take the place of what went wrong before
        say(f"retrain: {REPORT} cannot be written: {error}")
