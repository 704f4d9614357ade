"""The server's log on stderr: one JSON object per line."""

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # kept: json.dumps with an option builds one for every call


def log(event: str, message: str | None = None, **more: Any) -> None:
    """Write one line {time, event, message, ...}; message is a sentence for a person.

    A line that cannot be written, because the disk is full or stderr is closed, is lost: nothing may end for it.
    """
    line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    if message is not None:
        line["message"] = message
    with suppress(OSError, ValueError):
        sys.stderr.write(_ENCODER.encode(line | more) + "\n")  # one write: threads do not mix their lines
        sys.stderr.flush()
