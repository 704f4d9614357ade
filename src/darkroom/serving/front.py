"""The ASGI application in front: ids of requests, token, access log, counters, errors, and predictions.

A prediction of a small image takes 0.1 ms, but FastAPI's way to an endpoint (middlewares, routing, dependencies,
validation) takes 0.3 ms. So predictions, and feedback, whose body has the same limits, are answered here; FastAPI
answers everything else.
"""

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.serving import heads, open_inference
from darkroom.serving.feedback import FEEDBACK
from darkroom.serving.follower import Follower
from darkroom.serving.limits import Disconnected, Log, Refused
from darkroom.serving.metrics import Metrics
from darkroom.serving.predictions import EXPLAIN, PREDICT
from darkroom.serving.request import ENCODER, JSON, AnswerOf, Request

INFER = "/v2/models/MODEL/infer"  # as a label of counters
OPEN = {open_inference.LIVE, open_inference.READY}
PROTECTED = ("/v1/", "/v2", "/metrics")  # by the token; probes and the page, which asks for the token, are not
KNOWN = {  # as labels of counters
    PREDICT,
    EXPLAIN,
    FEEDBACK,
    "/v1/model",
    "/healthz",
    "/readyz",
    *OPEN,
    "/metrics",
    "/openapi.json",
    "/",
}
MOST_LOGGED = 200  # characters of a path, which may have 64 kB
CLIENT_CLOSED = 499  # only in logs and counters, as in nginx


class Front:
    """See above.

    Args:
        inner: answers every other path.
        posted: each returns the function that answers a POST to a path, or None.
        root_path: prefix of a proxy, which it may strip or not: /darkroom, or empty.
        token: required by /v1/ and /metrics as `Authorization: Bearer`; None: not required.
        access_log: called once per request, None: never.
        failed: called with (event, message, **more) when an answer is a 500.
    """

    def __init__(
        self,
        inner: ASGIApp,
        *,
        posted: Sequence[Callable[[str], AnswerOf | None]],
        follower: Follower,
        metrics: Metrics,
        root_path: str,
        token: str | None,
        access_log: Log | None,
        failed: Log,
    ) -> None:
        self._inner = inner
        self._posted = posted
        self._follower = follower
        self._metrics = metrics
        self._root_path = root_path
        self._token = token.encode() if token else None
        self._counters = dict[tuple[str, int], tuple[Counter, Histogram]]()
        self._log = access_log
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, log and count it."""
        request = Request.of(scope, receive, send, root_path=self._root_path)
        try:
            if self._token and request.path.startswith(PROTECTED) and request.path not in OPEN:
                heads.check_token(request.headers, self._token)
            if request.method == "POST" and (answer := self._answer_of(request.path)):
                await request.answer(await answer(request))
            else:
                await self._pass_on(scope, request)
        except Refused as refusal:
            request.status, request.form = refusal.status, [JSON]
            await request.answer(_problem(refusal.message, request), refusal.headers)
        except Disconnected:
            request.status = CLIENT_CLOSED
        except asyncio.CancelledError:
            request.status = CLIENT_CLOSED
            raise
        except Exception as error:  # a bug, or an error of the model; never a bad request
            message = f"{type(error).__name__}: {error}"
            self._failed("failed", message, path=request.path, **request.ids, traceback=traceback.format_exc())
            if not request.is_begun:
                request.status, request.form = 500, [JSON]
                await request.answer(_problem("the server failed; its log says why", request))
        finally:
            self._note(request)

    async def _pass_on(self, scope: Scope, request: Request) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status, request.is_begun = message["status"], True
                message["headers"] = [*message["headers"], *request.own_headers]
            await request.send(message)

        method = "GET" if request.method == "HEAD" else request.method  # the body is dropped in http_server.py
        inner = {**scope, "method": method, "path": request.path, "state": {"request_id": request.id}}
        await self._inner(inner, request.receive, noting)

    def _answer_of(self, path: str) -> AnswerOf | None:
        return next((answer for of in self._posted if (answer := of(path))), None)

    def _note(self, request: Request) -> None:
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
            path = request.path[:MOST_LOGGED]
            what = {**request.ids, "method": request.method, "path": path, "status": status}
            self._log("request", **what, ms=ms, n_images=request.n_images, version=version)


def _problem(message: str, request: Request) -> bytes:
    return ENCODER.encode({"error": message, "request_id": request.id}).encode()
