"""POST /v1/feedback: parse, check and store true labels before the answer."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pydantic import ValidationError

from darkroom.errors import DataError
from darkroom.monitoring.feedback import FeedbackLog, TrueLabel, listed, refusal, unknown_classes
from darkroom.serving import heads
from darkroom.serving.bodies import Intake
from darkroom.serving.follower import Follower
from darkroom.serving.limits import Limits, Refused
from darkroom.serving.metrics import Metrics
from darkroom.serving.request import ENCODER, AnswerOf, Request
from darkroom.serving.schemas import Labels, OneLabel

FEEDBACK = "/v1/feedback"
MAX_BODY_BYTES = 1 << 20
WELCOME = (
    'send JSON: {"id": ID, "label": CLASS}, or {"feedback": [...]} with several of these; ID is the sha256 of the '
    "image, or the request_id of its answer"
)


class Feedback:
    """Answers POST /v1/feedback.

    Args:
        target: stores the labels; None: they are refused.
    """

    def __init__(self, target: FeedbackLog | None, *, follower: Follower, metrics: Metrics, limits: Limits) -> None:
        self._target = target
        self._follower = follower
        self._metrics = metrics
        of_labels = replace(limits, max_body_bytes=MAX_BODY_BYTES, max_held_bytes=16 * MAX_BODY_BYTES)
        self._intake = Intake(of_labels, fewer="fewer labels")

    def of(self, path: str) -> AnswerOf | None:
        """Return the function that answers a path, None for other paths."""
        return self._take if path == FEEDBACK else None

    async def _take(self, request: Request) -> bytes:
        if self._target is None:
            sentence = "this server takes no feedback, because it keeps no log of predictions; start it with --log"
            raise Refused(404, sentence)
        heads.refuse_encoded(request.headers)
        body = await self._intake.receive(heads.declared_length(request.headers), request.receive)
        try:
            classes = self._follower.served.facts.classes
            content_type = request.headers.get(b"content-type", b"").decode("latin-1")
            labels = await asyncio.to_thread(labels_of, body, content_type, classes=classes)
            unknown = await asyncio.to_thread(store, self._target, labels, classes=classes)
        finally:
            self._intake.release(len(body))
        request.n_images = len(labels)
        for label in labels:
            self._metrics.feedback.labels(str(label.label in classes).lower()).inc()
        answer = {"request_id": request.id, "n_stored": len(labels), "unknown_classes": unknown}
        return ENCODER.encode(answer).encode()


def labels_of(body: bytes, content_type: str, *, classes: Sequence[str]) -> list[TrueLabel]:
    """Return the true labels in a body.

    Args:
        classes: of the served version; other labels are possible, see monitoring.feedback.refusal.

    Raises:
        Refused: the body does not have the form of WELCOME, or a label is refused.
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
    """Write the labels, and return those that are not in classes.

    Raises:
        Refused: a file cannot be written.
    """
    try:
        log.append(labels)
    except DataError as error:
        raise Refused(503, f"the feedback cannot be stored: {error}", headers=((b"retry-after", b"60"),)) from None
    return unknown_classes((label.label for label in labels), classes)
