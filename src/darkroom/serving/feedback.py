"""POST /v1/feedback: a body to true labels, checked and on the disk before it is answered."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from darkroom.errors import DataError
from darkroom.monitoring.feedback import FeedbackLog, TrueLabel, listed, refusal, unknown_classes
from darkroom.serving.limits import Refused
from darkroom.serving.schemas import Labels, OneLabel

MAX_BODY_BYTES = 1 << 20
WELCOME = (
    'send JSON: {"id": ID, "label": CLASS}, or {"feedback": [...]} with several of these; ID is the sha256 of the '
    "image, or the request_id of its answer"
)


def labels_of(body: bytes, content_type: str, *, classes: Sequence[str]) -> list[TrueLabel]:
    """Return the true labels in a body.

    Args:
        classes: of the version that answers; a label may be none of them, see monitoring.feedback.refusal.

    Raises:
        Refused: the body is not as WELCOME has it, or a label is not taken.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("application/json", ""):
        raise Refused(415, f"Content-Type {kind[:100]} is not supported; {WELCOME}")
    try:
        value = json.loads(body)
        several = isinstance(value, dict) and "feedback" in value
        given = Labels.model_validate(value).feedback if several else [OneLabel.model_validate(value)]
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise Refused(400, f"{where}{first['msg'].removeprefix('Value error, ')}; {WELCOME}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON ({' '.join(str(error).split())[:100]}); {WELCOME}") from None
    for number, one in enumerate(given):
        if why := refusal(one.label, classes):
            raise Refused(422, f"label {number} is {one.label[:40]!a}: {why}; known classes: {listed(classes)}")
    now = datetime.now(UTC)
    return [TrueLabel(one.image, one.label, now, one.position) for one in given]


def store(log: FeedbackLog, labels: Sequence[TrueLabel], *, classes: Sequence[str]) -> list[str]:
    """Write the labels, and return those that are none of the classes.

    Raises:
        Refused: the disk refuses.
    """
    try:
        log.append(labels)
    except DataError as error:
        raise Refused(503, f"the feedback cannot be stored: {error}", headers=((b"retry-after", b"60"),)) from None
    return unknown_classes((label.label for label in labels), classes)
