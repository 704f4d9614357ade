"""The ASGI application in front: token, limits, deadlines, access log, counters, and POST /v1/predict itself.

A prediction of a small image takes 0.1 ms, and FastAPI's way to an endpoint (middlewares, routing, dependencies,
validation) takes 0.3 ms. So this one request is answered here before FastAPI routes it; the rest is FastAPI's.
"""

import asyncio
import hmac
import json
import time
import traceback
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.serving.batching import Batcher
from darkroom.serving.bodies import LARGE, Intake, images_of
from darkroom.serving.follower import Follower, Log
from darkroom.serving.limits import Disconnected, Limits, Refused
from darkroom.serving.metrics import Metrics

PREDICT = "/v1/predict"
PROTECTED = ("/v1/", "/metrics")  # by the token; probes and the page, which asks for the token, are open
KNOWN = {PREDICT, "/v1/model", "/healthz", "/readyz", "/metrics", "/openapi.json", "/"}  # as labels of counters
LINGER_SECONDS = 2.0  # of reading on after a refusal, so that a client that still sends can read it
CLIENT_CLOSED = 499  # in logs and counters only, as nginx has it
JSON = (b"content-type", b"application/json")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # kept: json.dumps would build one per answer


class Front:
    """See above.

    Args:
        inner: answers every other path.
        token: what /v1/ and /metrics ask for as `Authorization: Bearer`; None: nothing.
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
        log: Log | None,
        failed: Log,
    ) -> None:
        self._inner = inner
        self._follower = follower
        self._batcher = batcher
        self._metrics = metrics
        self._max_images = limits.max_images
        self._intake = Intake(limits)
        self._credentials = f"Bearer {token}".encode() if token else None
        self._log = log
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request and note it."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        path, method = scope["path"], scope["method"]
        status, n_images = 0, 0

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            headers = dict(scope["headers"])
            if self._credentials and path.startswith(PROTECTED):
                self._check_credentials(headers.get(b"authorization", b""))
            if path == PREDICT and method == "POST":
                body, n_images, status = await self._predict(headers, receive)
                await _answer(send, status, body)
            else:
                await self._inner(scope, receive, noting)
        except Refused as refusal:
            status = refusal.status
            await _refuse(refusal, receive, send)
        except Disconnected:
            status = CLIENT_CLOSED
        except Exception as error:  # ours, or the model's: a bad request never ends here
            message = f"{type(error).__name__}: {error}"
            self._failed("failed", message, path=path, traceback=traceback.format_exc())
            if not status:
                status = 500
                await _answer(send, 500, b'{"error":"the server failed; its log says why"}')
        finally:
            self._note(method, path, status, time.perf_counter() - started, n_images)

    async def _predict(self, headers: dict[bytes, bytes], receive: Receive) -> tuple[bytes, int, int]:
        """Return (the answer's body, number of images, status)."""
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(415, "Content-Encoding is not supported; send the body uncompressed", close=True)
        body = await self._intake.receive(int(headers.get(b"content-length", b"0")), receive)
        try:
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            if len(body) < LARGE or content_type.startswith("image/"):
                images = images_of(body, content_type, max_images=self._max_images)
            else:
                images = await asyncio.to_thread(images_of, body, content_type, max_images=self._max_images)
            served = self._follower.served
            answers = await self._batcher.submit(served, images)
        finally:
            self._intake.release(len(body))
        answer: dict[str, Any] = {"model": served.version.name, "version": served.version.version}
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

    def _check_credentials(self, given: bytes) -> None:
        if not hmac.compare_digest(given, self._credentials or b""):
            sentence = "a token is required; send it as `Authorization: Bearer TOKEN`"
            raise Refused(401, sentence, headers=((b"www-authenticate", b"Bearer"),), close=True)

    def _note(self, method: str, path: str, status: int, seconds: float, n_images: int) -> None:
        known = path if path in KNOWN else "other"
        self._metrics.requests.labels(known, status).inc()
        self._metrics.seconds.labels(known).observe(seconds)
        if self._log:
            ms, version = round(seconds * 1000, 3), self._follower.served.version.version
            self._log("request", method=method, path=path, status=status, ms=ms, n_images=n_images, version=version)


async def _answer(
    send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (), *, last: bool = True
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def _refuse(refusal: Refused, receive: Receive, send: Send) -> None:
    body = _ENCODER.encode({"error": refusal.message}).encode()
    if not refusal.close:
        await _answer(send, refusal.status, body, refusal.headers)
        return
    # A socket that is closed while bytes arrive is reset, and the client may lose the answer it has not read yet.
    await _answer(send, refusal.status, body, [*refusal.headers, (b"connection", b"close")], last=False)
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})
