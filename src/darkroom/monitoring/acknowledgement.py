"""An acknowledged alarm: what it was, why it needs no action, and until when that is valid."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from darkroom.errors import DataError
from darkroom.files.writing import write_errors, write_text

FILE = "acknowledged.json"  # in the log's directory: where the log is read, it is found


@dataclass(frozen=True)
class Acknowledgement:
    """An alarm that somebody acknowledged; there is at most one per log.

    Attributes:
        alarms: names of the drifted measures, and recent_accuracy.
        version: the champion at that time.
        data: digest of data/prepared at that time.
        at, until: aware times in ISO format.
        who: user@host.
        reason: given by that person.
    """

    alarms: Sequence[str]
    version: str | None
    data: str | None
    at: str
    until: str
    who: str
    reason: str

    def lapsed(self, alarms: Collection[str], *, version: str | None, data: str | None, now: datetime) -> str | None:
        """Return why it is not valid for these alarms, None if it is.

        It ends with its last day, with another champion, with other training data, and when another measure alarms.
        """
        if now >= datetime.fromisoformat(self.until):
            return f"it ended at {self.until}"
        if version != self.version:
            return f"the champion was version {self.version or 'none'} and is version {version or 'none'}"
        if data != self.data:
            return "the training data have changed"
        if others := sorted(set(alarms) - set(self.alarms)):
            return f"it is about {', '.join(self.alarms)}, not {', '.join(others)}"
        return None

    def __str__(self) -> str:
        return f"acknowledged by {self.who} until {self.until[:16]}: {self.reason}"


def read_acknowledgement(log: Path) -> Acknowledgement | None:
    """Return the acknowledgement of a log, None if there is none.

    Raises:
        DataError: the file is damaged.
    """
    path = log / FILE
    try:
        return Acknowledgement(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it, and acknowledge the alarm again") from None


def write_acknowledgement(log: Path, acknowledgement: Acknowledgement) -> None:
    """Replace the acknowledgement of a log.

    Raises:
        DataError: the file cannot be written.
    """
    path = log / FILE
    with write_errors(path):
        write_text(path, json.dumps(asdict(acknowledgement), indent=1, ensure_ascii=False) + "\n")
