"""POST to /v1/predict and /v2/models/MODEL/infer: a body to images, and answers to a body."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from darkroom.serving import heads, open_inference
from darkroom.serving.batching import Batcher
from darkroom.serving.bodies import LARGE, Intake, images_of
from darkroom.serving.follower import Follower, Served
from darkroom.serving.limits import Limits
from darkroom.serving.metrics import Metrics
from darkroom.serving.pool import Answer
from darkroom.serving.request import ENCODER, AnswerOf, Request

PREDICT = "/v1/predict"
AskedT = TypeVar("AskedT")


class Predictions:
    """See above."""

    def __init__(self, *, follower: Follower, batcher: Batcher, metrics: Metrics, limits: Limits) -> None:
        self._follower = follower
        self._batcher = batcher
        self._metrics = metrics
        self._max_images = limits.max_images
        self._intake = Intake(limits)

    def of(self, path: str) -> AnswerOf | None:
        """Return what answers a path, None if it is not one of these."""
        if path == PREDICT:
            return self._predict
        model = open_inference.model_of(path)
        return partial(self._infer, model=model) if model else None

    async def _predict(self, request: Request) -> bytes:
        shown = heads.Shown.of(request.query) if request.query else None
        content_type = request.headers.get(b"content-type", b"").decode("latin-1")

        def parsed(body: bytes) -> tuple[list[bytes | str], None]:
            return images_of(body, content_type, max_images=self._max_images), None

        is_cheap = content_type.startswith("image/")
        _, served, answers = await self._classified(request, parsed, is_cheap=is_cheap)
        version = served.version
        told = {"request_id": request.id, "model": version.name, "version": version.version}
        if all(answer.is_error for answer in answers):
            request.status = 422
            first = answers[0].value["error"]
            told["error"] = first if len(answers) == 1 else f"none of the {len(answers)} images can be read: {first}"
        if shown:
            texts = [ENCODER.encode(shown.applied(answer.value)).encode() for answer in answers]
        else:
            texts = [answer.text for answer in answers]
        return b'%s,"predictions":[%s]}' % (ENCODER.encode(told)[:-1].encode(), b",".join(texts))

    async def _infer(self, request: Request, *, model: tuple[str, str | None]) -> bytes:
        open_inference.check_model(self._follower.served, *model)

        def parsed(body: bytes) -> tuple[list[bytes | str], open_inference.Asked]:
            n_json = request.headers.get(open_inference.N_JSON)
            asked = open_inference.Asked.of(body, n_json, max_images=self._max_images)
            return asked.images, asked

        asked, served, answers = await self._classified(request, parsed)
        open_inference.check_model(served, *model)  # the alias may have moved while the body came
        values = [answer.value for answer in answers]
        told, behind = open_inference.answer(asked, served, values, request_id=request.id)
        body = ENCODER.encode(told).encode()
        if behind:
            n_json = str(len(body)).encode()
            request.form = [(b"content-type", b"application/octet-stream"), (open_inference.N_JSON, n_json)]
        return body + behind

    async def _classified(
        self, request: Request, parsed: Callable[[bytes], tuple[list[bytes | str], AskedT]], *, is_cheap: bool = False
    ) -> tuple[AskedT, Served, list[Answer]]:
        """Return what was asked beside the images, the version that answered and its answers.

        Args:
            parsed: returns the images of a body, and what was asked beside them.
            is_cheap: whether that takes no time, however large the body is.
        """
        heads.refuse_encoded(request.headers)
        body = await self._intake.receive(heads.declared_length(request.headers), request.receive)
        try:
            at_once = is_cheap or len(body) < LARGE
            images, asked = parsed(body) if at_once else await asyncio.to_thread(parsed, body)
            request.n_images = len(images)
            served = self._follower.served
            answers = await self._batcher.submit(served, images, request_id=request.id)
        finally:
            self._intake.release(len(body))
        if n_errors := sum(answer.is_error for answer in answers):
            self._metrics.images_refused.inc(n_errors)
        return asked, served, answers
