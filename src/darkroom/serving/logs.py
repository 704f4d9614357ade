"""What the server says, on stderr: one JSON object per line."""

import json
import sys
from datetime import UTC, datetime
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # kept: json.dumps with an option builds one for every call


def log(event: str, message: str | None = None, **more: Any) -> None:
    """Write one line {time, event, message, ...}; message is a sentence for a person."""
    line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    if message is not None:
        line["message"] = message
    sys.stderr.write(_ENCODER.encode(line | more) + "\n")  # one write: threads do not mix their lines
    sys.stderr.flush()
