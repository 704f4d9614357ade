"""Notify a program or a webhook of the result of a retraining. Failed notifications are reported, never raised."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from darkroom.operations.triggers import ALARMS, Trigger, fired

NOTHING, FAILED, LOCKED = "nothing", "failed", "locked"  # besides the decisions of `promote`
UNCHANGED, KEPT, PROMOTED = "unchanged", "kept", "promoted"
WEBHOOK = "DARKROOM_RETRAIN_WEBHOOK"  # environment variable, because a URL with a token does not belong in params.yaml
RETRIES = 2
MESSAGE_CHARACTERS = 2000  # Discord refuses more


def notify(
    event: str, report: Mapping[str, Any], *, command: str | None, webhook: str | None, timeout: float, root: Path
) -> list[dict[str, Any]]:
    """Send the report to the command and the webhook; return {to, sent, error} for each.

    Args:
        event: promoted, kept, failed, or another word of reports/promotion.json.
        report: contents of reports/retrain.json.
        command: run by /bin/sh in `root` with the report as JSON on stdin and DARKROOM_EVENT in its environment.
        webhook: gets the report as JSON by POST, repeated after a failure; None: DARKROOM_RETRAIN_WEBHOOK. The keys
            `text` (for Slack and similar) and `content` (for Discord) have it in words.
        timeout: of the command and of each attempt at the webhook, in seconds.
    """
    text = json.dumps({"event": event, **report})
    told = []
    if command:
        told.append(_result("command", _call(event, text, command=command, timeout=timeout, root=root)))
    if webhook := webhook or os.environ.get(WEBHOOK):
        said = in_words(event, report)
        text = json.dumps({"text": said, "content": said, "event": event, **report})
        # Only the host, because path and query of a webhook are usually secret.
        told.append(_result(f"webhook {urlsplit(webhook).hostname}", _post(text, webhook=webhook, timeout=timeout)))
    return told


def event_of(report: Mapping[str, Any]) -> str:
    """Return the event of a report.

    It is `promoted` even if the commit could not be pushed; the report has the error.
    """
    if report["error"] and report["decision"] in (FAILED, NOTHING, UNCHANGED):
        return FAILED
    return str(report["decision"])


def is_told(event: str, report: Mapping[str, Any], *, heartbeat: bool) -> bool:
    """Return whether to notify: always with a heartbeat, else if something changed or an alarm fired."""
    calling = fired([Trigger(**trigger) for trigger in report["triggers"]])
    return heartbeat or event not in (NOTHING, UNCHANGED, LOCKED) or bool(event == UNCHANGED and calling & ALARMS)


def in_words(event: str, report: Mapping[str, Any]) -> str:
    """Return a report in words for a chat, in at most MESSAGE_CHARACTERS."""
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
            return type(error).__name__  # its text has the whole URL
    return None if answer.ok else f"HTTP {answer.status_code}"
