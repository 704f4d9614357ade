"""A request on its way through the application in front."""

import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from darkroom.serving import heads

JSON = (b"content-type", b"application/json")
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # kept: json.dumps would build one per answer


@dataclass(slots=True)
class Request:
    """A request and the state of its answer.

    Attributes:
        traceparent: of the client's trace, copied to answer and log.
        status: of the answer.
        n_images: for the log.
        is_begun: whether the answer has begun.
        form: headers that describe the answer's body.
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
    status: int = 200
    n_images: int = 0
    is_begun: bool = False
    form: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send, *, root_path: str) -> "Request":
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
        """The ids of the request for log lines."""
        traced = {"traceparent": self.traceparent.decode()} if self.traceparent else {}
        return {"request_id": self.id, **traced}

    async def answer(self, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send the answer."""
        self.is_begun = True
        own = [*self.form, (b"content-length", b"%d" % len(body)), *self.own_headers, *headers]
        await self.send({"type": "http.response.start", "status": self.status, "headers": own})
        await self.send({"type": "http.response.body", "body": body})


AnswerOf = Callable[[Request], Awaitable[bytes]]  # returns the answer's body
