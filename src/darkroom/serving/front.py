"""The ASGI application in front: ids of requests, token, limits, access log, counters, and what is posted to /v1.

A prediction of a small image takes 0.1 ms, and FastAPI's way to an endpoint (middlewares, routing, dependencies,
validation) takes 0.3 ms. So this one request is answered here before FastAPI routes it, and feedback with it, whose
body has the same limits; the rest is FastAPI's.
"""

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.monitoring.feedback import FeedbackLog
from darkroom.serving import feedback, heads, open_inference
from darkroom.serving.batching import Answer, Batcher
from darkroom.serving.bodies import LARGE, Intake, images_of
from darkroom.serving.follower import Follower, Log, Served
from darkroom.serving.limits import Disconnected, Limits, Refused
from darkroom.serving.metrics import Metrics

PREDICT = "/v1/predict"
FEEDBACK = "/v1/feedback"
INFER = "/v2/models/MODEL/infer"  # as label of counters
OPEN = {open_inference.LIVE, open_inference.READY}
PROTECTED = ("/v1/", "/v2", "/metrics")  # by the token; probes and the page, which asks for the token, are open
KNOWN = {
    PREDICT,
    FEEDBACK,
    "/v1/model",
    "/healthz",
    "/readyz",
    *OPEN,
    "/metrics",
    "/openapi.json",
    "/",
}  # as labels of counters
LINGER_SECONDS = 2.0  # of reading on after a refusal, so that a client that still sends can read it
CLIENT_CLOSED = 499  # in logs and counters only, as nginx has it
AskedT = TypeVar("AskedT")
JSON = (b"content-type", b"application/json")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # kept: json.dumps would build one per answer


@dataclass(slots=True)
class _Request:
    """One request on its way.

    Attributes:
        traceparent: of the client's trace, handed on in answer and log.
        status, n_images: of the answer, for log and counters; status 0: none was sent.
        form: headers that say what the answer's body is.
    """

    method: str
    path: str
    query: bytes
    headers: heads.Headers
    receive: Receive
    send: Send
    id: str
    traceparent: bytes | None
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    n_images: int = 0
    form: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send, *, root_path: str) -> "_Request":
        headers = dict(scope["headers"])
        path, query = heads.path_of(scope, root_path), scope["query_string"]
        ids = heads.request_id(headers), heads.traceparent(headers)
        return cls(scope["method"], path, query, headers, receive, send, *ids)

    @property
    def own_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of every answer."""
        traced = [(b"traceparent", self.traceparent)] if self.traceparent else []
        return [(b"x-request-id", self.id.encode()), *traced]

    @property
    def ids(self) -> dict[str, str]:
        """What log lines name the request by."""
        traced = {"traceparent": self.traceparent.decode()} if self.traceparent else {}
        return {"request_id": self.id, **traced}


class Front:
    """See above.

    Args:
        inner: answers every other path.
        root_path: that a proxy has before all paths, and may leave there: /darkroom, or nothing.
        token: what /v1/ and /metrics ask for as `Authorization: Bearer`; None: nothing.
        feedback_log: takes true labels; None: they are refused.
        log: called once per request, None: never.
        failed: called with (event, message, **more) when an answer is a 500.
    """

    def __init__(
        self,
        inner: ASGIApp,
        *,
        follower: Follower,
        batcher: Batcher,
        metrics: Metrics,
        limits: Limits,
        root_path: str,
        token: str | None,
        feedback_log: FeedbackLog | None,
        log: Log | None,
        failed: Log,
    ) -> None:
        self._inner = inner
        self._follower = follower
        self._batcher = batcher
        self._metrics = metrics
        self._max_images = limits.max_images
        self._intake = Intake(limits)
        of_labels = replace(limits, max_body_bytes=feedback.MAX_BODY_BYTES, max_held_bytes=16 * feedback.MAX_BODY_BYTES)
        self._label_intake = Intake(of_labels, fewer="fewer labels")
        self._feedback_log = feedback_log
        self._posted = {PREDICT: self._predict, FEEDBACK: self._take_feedback}
        self._root_path = root_path
        self._token = token.encode() if token else None
        self._counters = dict[tuple[str, int], tuple[Counter, Histogram]]()
        self._log = log
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request and note it."""
        if scope["type"] != "http":
            return
        request = _Request.of(scope, receive, send, root_path=self._root_path)
        try:
            heads.check_length(request.headers)
            if self._token and request.path.startswith(PROTECTED) and request.path not in OPEN:
                heads.check_token(request.headers, self._token)
            if request.method == "POST" and (answer := self._answer_of(request.path)):
                body, request.n_images, request.status = await answer(request)
                await _answer(request, body)
            else:
                await self._pass_on(scope, request)
        except Refused as refusal:
            request.status = refusal.status
            await _refuse(refusal, request)
        except Disconnected:
            request.status = CLIENT_CLOSED
        except Exception as error:  # ours, or the model's: a bad request never ends here
            message = f"{type(error).__name__}: {error}"
            self._failed("failed", message, path=request.path, **request.ids, traceback=traceback.format_exc())
            if not request.status:
                request.status = 500
                await _answer(request, _problem("the server failed; its log says why", request))
        finally:
            self._note(request)

    async def _pass_on(self, scope: Scope, request: _Request) -> None:
        is_head = request.method == "HEAD"  # answered as GET is, without the body

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                message["headers"] = [*message["headers"], *request.own_headers]
            elif is_head:
                message["body"] = b""
            await request.send(message)

        method = "GET" if is_head else request.method
        inner = {**scope, "method": method, "path": request.path, "state": {"request_id": request.id}}
        await self._inner(inner, request.receive, noting)

    def _answer_of(self, path: str) -> Callable[[_Request], Awaitable[tuple[bytes, int, int]]] | None:
        if answer := self._posted.get(path):
            return answer
        model = open_inference.model_of(path)
        return partial(self._infer, model=model) if model else None

    async def _predict(self, request: _Request) -> tuple[bytes, int, int]:
        """Return (the answer's body, number of images, status)."""
        shown = heads.Shown.of(request.query) if request.query else None
        content_type = request.headers.get(b"content-type", b"").decode("latin-1")

        def parsed(body: bytes) -> tuple[list[bytes | str], None]:
            return images_of(body, content_type, max_images=self._max_images), None

        is_cheap = content_type.startswith("image/")
        _, served, answers = await self._classified(request, parsed, is_cheap=is_cheap)
        version = served.version
        answer: dict[str, Any] = {"request_id": request.id, "model": version.name, "version": version.version}
        errors = [answer["error"] for answer in answers if "error" in answer]
        status = 200
        if len(errors) == len(answers):
            status = 422
            answer["error"] = (
                errors[0] if len(errors) == 1 else f"none of the {len(errors)} images can be read: {errors[0]}"
            )
        answer["predictions"] = [shown.applied(one) for one in answers] if shown else answers
        return _ENCODER.encode(answer).encode(), len(answers), status

    async def _infer(self, request: _Request, *, model: tuple[str, str | None]) -> tuple[bytes, int, int]:
        """Return (the answer's body, number of images, status)."""
        open_inference.check_model(self._follower.served, *model)

        def parsed(body: bytes) -> tuple[list[bytes | str], open_inference.Asked]:
            n_json = request.headers.get(open_inference.N_JSON)
            asked = open_inference.Asked.of(body, n_json, max_images=self._max_images)
            return asked.images, asked

        asked, served, answers = await self._classified(request, parsed)
        open_inference.check_model(served, *model)  # the alias may have moved while the body came
        told, behind = open_inference.answer(asked, served, answers, request_id=request.id)
        body = _ENCODER.encode(told).encode()
        if behind:
            n_json = str(len(body)).encode()
            request.form = [(b"content-type", b"application/octet-stream"), (open_inference.N_JSON, n_json)]
        return body + behind, len(answers), 200

    async def _classified(
        self, request: _Request, parsed: Callable[[bytes], tuple[list[bytes | str], AskedT]], *, is_cheap: bool = False
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
            served = self._follower.served
            answers = await self._batcher.submit(served, images, request_id=request.id)
        finally:
            self._intake.release(len(body))
        if n_errors := sum("error" in answer for answer in answers):
            self._metrics.images_refused.inc(n_errors)
        return asked, served, answers

    async def _take_feedback(self, request: _Request) -> tuple[bytes, int, int]:
        """Return (the answer's body, number of images, status)."""
        if self._feedback_log is None:
            sentence = "this server takes no feedback, because it keeps no log of predictions; start it with --log"
            raise Refused(404, sentence, close=True)
        heads.refuse_encoded(request.headers)
        body = await self._label_intake.receive(heads.declared_length(request.headers), request.receive)
        try:
            classes = self._follower.served.package.classes
            content_type = request.headers.get(b"content-type", b"").decode("latin-1")
            labels = await asyncio.to_thread(feedback.labels_of, body, content_type, classes=classes)
            unknown = await asyncio.to_thread(feedback.store, self._feedback_log, labels, classes=classes)
        finally:
            self._label_intake.release(len(body))
        for label in labels:
            self._metrics.feedback.labels(str(label.label in classes).lower()).inc()
        answer = {"request_id": request.id, "n_stored": len(labels), "unknown_classes": unknown}
        return _ENCODER.encode(answer).encode(), len(labels), 200

    def _note(self, request: _Request) -> None:
        seconds, status = time.perf_counter() - request.started, request.status
        known = request.path
        if known not in KNOWN:
            known = INFER if open_inference.model_of(known) else "other"
        if (known, status) not in self._counters:  # labels() takes longer than the counting itself
            of_path = self._metrics.seconds.labels(known)
            self._counters[known, status] = self._metrics.requests.labels(known, status), of_path
        n_requests, duration = self._counters[known, status]
        n_requests.inc()
        duration.observe(seconds)
        if self._log:
            ms, version = round(seconds * 1000, 3), self._follower.served.version.version
            what = {**request.ids, "method": request.method, "path": request.path, "status": status}
            self._log("request", **what, ms=ms, n_images=request.n_images, version=version)


def _problem(message: str, request: _Request) -> bytes:
    return _ENCODER.encode({"error": message, "request_id": request.id}).encode()


async def _answer(
    request: _Request, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (), *, last: bool = True
) -> None:
    own = [*request.form, (b"content-length", str(len(body)).encode()), *request.own_headers]
    await request.send({"type": "http.response.start", "status": request.status, "headers": [*own, *headers]})
    shown = b"" if request.method == "HEAD" else body
    await request.send({"type": "http.response.body", "body": shown, "more_body": not last})


async def _refuse(refusal: Refused, request: _Request) -> None:
    body = _problem(refusal.message, request)
    if not refusal.close:
        await _answer(request, body, refusal.headers)
        return
    # A socket that is closed while bytes arrive is reset, and the client may lose the answer it has not read yet.
    await _answer(request, body, [*refusal.headers, (b"connection", b"close")], last=False)
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await request.receive()).get("more_body"):
                pass
    except TimeoutError:
        pass
    await request.send({"type": "http.response.body", "body": b""})
