"""Tell a program or a web address what a retraining came to. A notification that fails is reported, never raised."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from darkroom.operations.triggers import ALARMS, Trigger, fired

NOTHING, FAILED, LOCKED = "nothing", "failed", "locked"  # beside the words of `promote`
UNCHANGED, KEPT, PROMOTED = "unchanged", "kept", "promoted"
WEBHOOK = "DARKROOM_RETRAIN_WEBHOOK"  # environment variable: a URL that holds a token does not belong into params.yaml
RETRIES = 2
MESSAGE_CHARACTERS = 2000  # Discord refuses more


def notify(
    event: str, report: Mapping[str, Any], *, command: str | None, webhook: str | None, timeout: float, root: Path
) -> list[dict[str, Any]]:
    """Send the report to whoever is to hear of it; return {to, sent, error} of each.

    Args:
        event: promoted, kept, failed, or another word of reports/promotion.json.
        report: as reports/retrain.json holds it.
        command: run by /bin/sh in `root` with the report as JSON on stdin and DARKROOM_EVENT in its environment.
        webhook: gets the report as JSON by POST, again after a failure; None: what DARKROOM_RETRAIN_WEBHOOK says. The
            same in words is under `text`, which Slack and its like require, and `content`, which Discord does.
        timeout: of the command, and of each attempt at the webhook, in seconds.
    """
    text = json.dumps({"event": event, **report})
    told = []
    if command:
        told.append(_result("command", _call(event, text, command=command, timeout=timeout, root=root)))
    if webhook := webhook or os.environ.get(WEBHOOK):
        said = in_words(event, report)
        text = json.dumps({"text": said, "content": said, "event": event, **report})
        # Only the host: path and query of a webhook are usually its password.
        told.append(_result(f"webhook {urlsplit(webhook).hostname}", _post(text, webhook=webhook, timeout=timeout)))
    return told


def event_of(report: Mapping[str, Any]) -> str:
    """Return the word for those who are told.

    A model that was promoted is, though its commit could not be pushed; the error is in the report.
    """
    if report["error"] and report["decision"] in (FAILED, NOTHING, UNCHANGED):
        return FAILED
    return str(report["decision"])


def is_told(event: str, report: Mapping[str, Any], *, heartbeat: bool) -> bool:
    """Return whether a run is told of: with a heartbeat always, else if it came to something or followed an alarm."""
    calling = fired([Trigger(**trigger) for trigger in report["triggers"]])
    return heartbeat or event not in (NOTHING, UNCHANGED, LOCKED) or bool(event == UNCHANGED and calling & ALARMS)


def in_words(event: str, report: Mapping[str, Any]) -> str:
    """Return what a person in a chat wants to know of a report, in at most MESSAGE_CHARACTERS."""
    champion = " -> ".join(dict.fromkeys(filter(None, (report["version_before"], report["version_after"])))) or "none"
    said = f"Retraining of {report['registered_model']}: {event.replace('_', ' ')}. Champion: {champion}."
    said = " ".join([said, *([f"Error: {report['error']}."] if report["error"] else []), *report["reasons"]])
    return said if len(said) <= MESSAGE_CHARACTERS else f"{said[: MESSAGE_CHARACTERS - 3]}..."


def _result(to: str, error: str | None) -> dict[str, Any]:
    return {"to": to, "sent": error is None, "error": error}


def _call(event: str, text: str, *, command: str, timeout: float, root: Path) -> str | None:
    try:
        ended = subprocess.run(
            ["/bin/sh", "-c", command],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd=root,
            env={**os.environ, "DARKROOM_EVENT": event},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {timeout:g} s"
    except OSError as error:
        return error.strerror or str(error)
    last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
    return f"exit code {ended.returncode}: {last[:300]}" if ended.returncode else None


def _post(text: str, *, webhook: str, timeout: float) -> str | None:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(
        total=RETRIES, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=["POST"],
        respect_retry_after_header=False, raise_on_status=False,
    )  # fmt: skip
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=again))
        try:
            answer = session.post(
                webhook, data=text.encode(), headers={"Content-Type": "application/json"}, timeout=timeout
            )
        except requests.RequestException as error:
            return type(error).__name__  # its text holds the whole URL
    return None if answer.ok else f"HTTP {answer.status_code}"
