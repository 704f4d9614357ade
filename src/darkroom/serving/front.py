"""The ASGI application in front: ids of requests, token, limits, access log, counters, and what is posted to /v1.

A prediction of a small image takes 0.1 ms, and FastAPI's way to an endpoint (middlewares, routing, dependencies,
validation) takes 0.3 ms. So this one request is answered here before FastAPI routes it, and feedback with it, whose
body has the same limits; the rest is FastAPI's.
"""

import asyncio
import hmac
import json
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from secrets import token_hex
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.monitoring.feedback import REQUEST_ID, SHA256, FeedbackLog
from darkroom.serving import feedback
from darkroom.serving.batching import Batcher
from darkroom.serving.bodies import LARGE, Intake, images_of
from darkroom.serving.follower import Follower, Log
from darkroom.serving.limits import Disconnected, Limits, Refused
from darkroom.serving.metrics import Metrics

PREDICT = "/v1/predict"
FEEDBACK = "/v1/feedback"
PROTECTED = ("/v1/", "/metrics")  # by the token; probes and the page, which asks for the token, are open
KNOWN = {
    PREDICT,
    FEEDBACK,
    "/v1/model",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
}  # as labels of counters
LINGER_SECONDS = 2.0  # of reading on after a refusal, so that a client that still sends can read it
CLIENT_CLOSED = 499  # in logs and counters only, as nginx has it
JSON = (b"content-type", b"application/json")
_OWN, _NUMBERS = token_hex(4), count()  # of this process: an id of our own costs no call of the system
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # kept: json.dumps would build one per answer


class Front:
    """See above.

    Args:
        inner: answers every other path.
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
        self._credentials = f"Bearer {token}".encode() if token else None
        self._counters = dict[tuple[str, int], tuple[Counter, Histogram]]()
        self._log = log
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request and note it."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        path, method = scope["path"], scope["method"]
        status, n_images = 0, 0
        headers = dict(scope["headers"])
        request_id = _request_id(headers)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if self._credentials and path.startswith(PROTECTED):
                self._check_credentials(headers.get(b"authorization", b""))
            if method == "POST" and path in self._posted:
                body, n_images, status = await self._posted[path](headers, receive, request_id)
                await _answer(send, status, body, request_id)
            else:
                scope["state"] = {"request_id": request_id}
                await self._inner(scope, receive, noting)
        except Refused as refusal:
            status = refusal.status
            await _refuse(refusal, receive, send, request_id)
        except Disconnected:
            status = CLIENT_CLOSED
        except Exception as error:  # ours, or the model's: a bad request never ends here
            message = f"{type(error).__name__}: {error}"
            self._failed("failed", message, path=path, request_id=request_id, traceback=traceback.format_exc())
            if not status:
                status = 500
                await _answer(send, 500, _problem("the server failed; its log says why", request_id), request_id)
        finally:
            self._note(method, path, status, time.perf_counter() - started, n_images, request_id)

    async def _predict(self, headers: dict[bytes, bytes], receive: Receive, request_id: str) -> tuple[bytes, int, int]:
        """Return (the answer's body, number of images, status)."""
        _refuse_encoded(headers)
        body = await self._intake.receive(int(headers.get(b"content-length", b"0")), receive)
        try:
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            if len(body) < LARGE or content_type.startswith("image/"):
                images = images_of(body, content_type, max_images=self._max_images)
            else:
                images = await asyncio.to_thread(images_of, body, content_type, max_images=self._max_images)
            served = self._follower.served
            answers = await self._batcher.submit(served, images, request_id=request_id)
        finally:
            self._intake.release(len(body))
        version = served.version
        answer: dict[str, Any] = {"request_id": request_id, "model": version.name, "version": version.version}
        errors = [answer["error"] for answer in answers if "error" in answer]
        if errors:
            self._metrics.images_refused.inc(len(errors))
        status = 200
        if len(errors) == len(answers):
            status = 422
            answer["error"] = (
                errors[0] if len(errors) == 1 else f"none of the {len(errors)} images can be read: {errors[0]}"
            )
        answer["predictions"] = answers
        return _ENCODER.encode(answer).encode(), len(answers), status

    async def _take_feedback(
        self, headers: dict[bytes, bytes], receive: Receive, request_id: str
    ) -> tuple[bytes, int, int]:
        """Return (the answer's body, number of images, status)."""
        if self._feedback_log is None:
            sentence = "this server takes no feedback, because it keeps no log of predictions; start it with --log"
            raise Refused(404, sentence, close=True)
        _refuse_encoded(headers)
        body = await self._label_intake.receive(int(headers.get(b"content-length", b"0")), receive)
        try:
            classes = self._follower.served.package.classes
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            labels = await asyncio.to_thread(feedback.labels_of, body, content_type, classes=classes)
            unknown = await asyncio.to_thread(feedback.store, self._feedback_log, labels, classes=classes)
        finally:
            self._label_intake.release(len(body))
        for label in labels:
            self._metrics.feedback.labels(str(label.label in classes).lower()).inc()
        answer = {"request_id": request_id, "n_stored": len(labels), "unknown_classes": unknown}
        return _ENCODER.encode(answer).encode(), len(labels), 200

    def _check_credentials(self, given: bytes) -> None:
        if not hmac.compare_digest(given, self._credentials or b""):
            sentence = "a token is required; send it as `Authorization: Bearer TOKEN`"
            raise Refused(401, sentence, headers=((b"www-authenticate", b"Bearer"),), close=True)

    def _note(self, method: str, path: str, status: int, seconds: float, n_images: int, request_id: str) -> None:
        known = path if path in KNOWN else "other"
        if (known, status) not in self._counters:  # labels() takes longer than the counting itself
            of_path = self._metrics.seconds.labels(known)
            self._counters[known, status] = self._metrics.requests.labels(known, status), of_path
        n_requests, duration = self._counters[known, status]
        n_requests.inc()
        duration.observe(seconds)
        if self._log:
            ms, version = round(seconds * 1000, 3), self._follower.served.version.version
            what = {"request_id": request_id, "method": method, "path": path, "status": status}
            self._log("request", **what, ms=ms, n_images=n_images, version=version)


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the client's X-Request-ID, or one of our own where that is missing or not well-formed.

    One that looks like the sha256 of an image is not: feedback names images by either.
    """
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    if given and REQUEST_ID.fullmatch(given) and not SHA256.fullmatch(given.lower()):
        return given
    return f"{_OWN}{next(_NUMBERS):08x}"


def _refuse_encoded(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(415, "Content-Encoding is not supported; send the body uncompressed", close=True)


def _problem(message: str, request_id: str) -> bytes:
    return _ENCODER.encode({"error": message, "request_id": request_id}).encode()


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    request_id: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    last: bool = True,
) -> None:
    own = (b"content-length", str(len(body)).encode()), (b"x-request-id", request_id.encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, *own, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def _refuse(refusal: Refused, receive: Receive, send: Send, request_id: str) -> None:
    body = _problem(refusal.message, request_id)
    if not refusal.close:
        await _answer(send, refusal.status, body, request_id, refusal.headers)
        return
    # A socket that is closed while bytes arrive is reset, and the client may lose the answer it has not read yet.
    await _answer(send, refusal.status, body, request_id, [*refusal.headers, (b"connection", b"close")], last=False)
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})
