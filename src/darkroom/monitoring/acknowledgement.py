"""An alarm that a person knows of: what it was, why it calls for nothing, and until when that holds."""

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
    """One alarm that somebody took note of; there is at most one per log.

    Attributes:
        alarms: names of the measures that had drifted, and recent_accuracy.
        version: the champion then.
        data: digest of data/prepared then.
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
        """Return why it does not hold for these alarms, None where it does.

        It ends with its last day, with another champion, with other training data, and where something else alarms.
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
    """Return the acknowledgement of a log, None where there is none.

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
    """Put it in the place of the one before.

    Raises:
        DataError: a file cannot be written.
    """
    path = log / FILE
    with write_errors(path):
        write_text(path, json.dumps(asdict(acknowledgement), indent=1, ensure_ascii=False) + "\n")
