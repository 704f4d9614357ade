"""POST to /v1/predict, /v1/explain and /v2/models/MODEL/infer: parse images, and write answers."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from darkroom.serving import heads, open_inference
from darkroom.serving.batching import Batcher
from darkroom.serving.bodies import LARGE, Intake, images_of
from darkroom.serving.follower import Follower, Served
from darkroom.serving.limits import Limits, Refused
from darkroom.serving.metrics import Metrics
from darkroom.serving.request import ENCODER, AnswerOf, Request
from darkroom.serving.worker_process import Answer

PREDICT, EXPLAIN = "/v1/predict", "/v1/explain"
AskedT = TypeVar("AskedT")


class Predictions:
    """See above.

    Args:
        batcher: passes images to the workers that predict.
        explainer: passes images to the worker that explains; None: explanations are refused.
    """

    def __init__(
        self, *, follower: Follower, batcher: Batcher, explainer: Batcher | None, metrics: Metrics, limits: Limits
    ) -> None:
        self._follower = follower
        self._batcher = batcher
        self._explainer = explainer
        self._metrics = metrics
        self._max_images = limits.max_images
        self._intake = Intake(limits)

    def of(self, path: str) -> AnswerOf | None:
        """Return the function that answers a path, None for other paths."""
        if path == PREDICT:
            return self._predict
        if path == EXPLAIN:
            return self._explain
        model = open_inference.model_of(path)
        return partial(self._infer, model=model) if model else None

    async def _predict(self, request: Request) -> bytes:
        shown = heads.Shown.of(request.query) if request.query else None
        served, answers = await self._of_images(request, max_images=self._max_images)
        told = _told(request, served)
        if all(answer.is_error for answer in answers):
            request.status = 422
            first = answers[0].value["error"]
            told["error"] = first if len(answers) == 1 else f"none of the {len(answers)} images can be read: {first}"
        if shown:
            texts = [ENCODER.encode(shown.applied(answer.value)).encode() for answer in answers]
        else:
            texts = [answer.text for answer in answers]
        return b'%s,"predictions":[%s]}' % (ENCODER.encode(told)[:-1].encode(), b",".join(texts))

    async def _explain(self, request: Request) -> bytes:
        if self._explainer is None:
            raise Refused(404, "this server does not explain its answers; start it with --explain")
        if request.query:
            raise Refused(400, f"{EXPLAIN} takes no query parameters; {PREDICT} takes top and threshold")
        served, (answer,) = await self._of_images(request, max_images=1, explainer=self._explainer)
        if answer.is_error:
            raise Refused(422, answer.value["error"])
        return b"%s,%s" % (ENCODER.encode(_told(request, served))[:-1].encode(), answer.text[1:])

    async def _of_images(
        self, request: Request, *, max_images: int, explainer: Batcher | None = None
    ) -> tuple[Served, list[Answer]]:
        """Return the version and its answers for the images of a body in one of the forms of /v1."""
        content_type = request.headers.get(b"content-type", b"").decode("latin-1")

        def parsed(body: bytes) -> tuple[list[bytes | str], None]:
            return images_of(body, content_type, max_images=max_images), None

        is_cheap = content_type.startswith("image/")
        _, served, answers = await self._classified(request, parsed, is_cheap=is_cheap, explainer=explainer)
        return served, answers

    async def _infer(self, request: Request, *, model: tuple[str, str | None]) -> bytes:
        open_inference.check_model(self._follower.served, *model)

        def parsed(body: bytes) -> tuple[list[bytes | str], open_inference.Asked]:
            n_json = request.headers.get(open_inference.N_JSON)
            asked = open_inference.Asked.of(body, n_json, max_images=self._max_images)
            open_inference.check_outputs(asked, self._follower.served)
            return asked.images, asked

        asked, served, answers = await self._classified(request, parsed)
        open_inference.check_model(served, *model)  # the alias may have moved while the body arrived
        values = [answer.value for answer in answers]
        told, behind = open_inference.answer(asked, served, values, request_id=request.id)
        body = ENCODER.encode(told).encode()
        if behind:
            n_json = str(len(body)).encode()
            request.form = [(b"content-type", b"application/octet-stream"), (open_inference.N_JSON, n_json)]
        return body + behind

    async def _classified(
        self,
        request: Request,
        parsed: Callable[[bytes], tuple[list[bytes | str], AskedT]],
        *,
        is_cheap: bool = False,
        explainer: Batcher | None = None,
    ) -> tuple[AskedT, Served, list[Answer]]:
        """Return the other contents of the body, the version, and its answers for the images.

        Args:
            parsed: returns the images of a body, and its other contents.
            is_cheap: whether parsing takes no time, however large the body is.
            explainer: passes the images to the worker that explains; None: they are only classified.
        """
        heads.refuse_encoded(request.headers)
        body = await self._intake.receive(heads.declared_length(request.headers), request.receive)
        try:
            at_once = is_cheap or len(body) < LARGE
            images, asked = parsed(body) if at_once else await asyncio.to_thread(parsed, body)
            request.n_images = len(images)
            served = self._follower.served
            pool = served.explaining if explainer else served.pool
            assert pool is not None  # noqa: S101 - a server that explains has one for every version
            answers = await (explainer or self._batcher).submit(pool, images, request_id=request.id)
        finally:
            self._intake.release(len(body))
        if n_errors := sum(answer.is_error for answer in answers):
            self._metrics.images_refused.inc(n_errors)
        return asked, served, answers


def _told(request: Request, served: Served) -> dict[str, str]:
    """Return the first fields of an answer of /v1."""
    return {"request_id": request.id, "model": served.version.name, "version": served.version.version}
