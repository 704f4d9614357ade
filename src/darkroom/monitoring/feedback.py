"""True labels, as lines of JSON in feedback/ of a prediction log's directory.

Every writer has its own file, so that no lock is needed. An accepted label is synced to disk at once, because a person
gave it. Every write begins on a new line, so a line truncated by a kill or a full disk does not damage the next.
"""

import json
import os
import re
import threading
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from darkroom.errors import DataError
from darkroom.files.writing import write_errors

FOLDER = "feedback"
MAX_LABEL = 200  # characters
SHA256 = re.compile(r"[0-9a-f]{64}")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")


@dataclass(frozen=True, slots=True)
class TrueLabel:
    """The true class of one image.

    Attributes:
        id: sha256 of the image file's bytes in hex, or the id of the request that classified it.
        label: the true class, which the model need not know.
        time: when it was given, aware.
        position: of the image in that request, from 0; None: the request had one image.
    """

    id: str
    label: str
    time: datetime
    position: int | None = None


class FeedbackLog:
    """Append true labels to a file of this writer's own. Safe to share between threads.

    Args:
        log: the directory of the prediction log; the file is made with the first label.
    """

    def __init__(self, log: Path) -> None:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}-{token_hex(4)}.jsonl"
        self._path = log / FOLDER / name
        self._lock = threading.Lock()

    def append(self, labels: Iterable[TrueLabel]) -> None:
        """Write the labels; when this returns they are on the disk.

        Raises:
            DataError: a file cannot be written; some of the labels may be written, and may safely be written again.
        """
        lines = [json.dumps(_as_json(label), ensure_ascii=False) for label in labels]
        data = "\n".join(["", *lines, ""]).encode()
        with self._lock, write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def read_feedback(log: Path) -> tuple[list[TrueLabel], int]:
    """Return all true labels of a log, oldest first, and the number of truncated lines.

    Raises:
        DataError: a file cannot be read.
    """
    labels, n_damaged = list[TrueLabel](), 0
    for path in sorted((log / FOLDER).glob("[!.]*.jsonl")):
        try:
            *lines, _ = path.read_bytes().split(b"\n")  # after the last newline: a line that is being written
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        for line in filter(None, lines):
            try:
                labels.append(_of_json(line))
            except (ValueError, TypeError, KeyError):
                n_damaged += 1
    return sorted(labels, key=lambda label: label.time), n_damaged


def refusal(label: str, classes: Collection[str]) -> str | None:
    """Return why a true label is refused, None if it is accepted.

    A class that the model does not know is accepted, because the image may show something else. A label that differs
    from a known class only in case or Unicode form is a mistake.

    Args:
        classes: the known classes.
    """
    if not label or len(label) > MAX_LABEL or label != label.strip() or not label.isprintable():
        return f"expected the name of a class, 1 to {MAX_LABEL} printable characters without spaces around them"
    if "/" in label or label.startswith("."):
        return "expected the name of a class, without a slash or a dot before it"
    if label in classes:
        return None
    near = [name for name in classes if _form(name) == _form(label)]
    return f"it differs from the class {near[0]} in case or Unicode form alone; did you mean that?" if near else None


def unknown_classes(labels: Iterable[str], classes: Collection[str]) -> list[str]:
    """Return the labels that are not in classes, each once, sorted."""
    return sorted({*labels} - {*classes})


def listed(classes: Sequence[str], *, n: int = 20) -> str:
    """Return class names in one line, at most n of them."""
    return ", ".join(classes[:n]) + (f", ... ({len(classes)} classes)" if len(classes) > n else "")


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _as_json(label: TrueLabel) -> dict[str, object]:
    place = {} if label.position is None else {"position": label.position}
    return {"time": label.time.isoformat(), "id": label.id, **place, "label": label.label}


def _of_json(line: bytes) -> TrueLabel:
    said = json.loads(line)
    time, position = datetime.fromisoformat(said["time"]), said.get("position")
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return TrueLabel(str(said["id"]), str(said["label"]), time, None if position is None else int(position))
