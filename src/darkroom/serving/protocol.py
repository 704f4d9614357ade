"""HTTP as uvicorn reads it fastest, with llhttp, and a limit that llhttp does not have."""

import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_BESIDE_BODY = 65_536  # bytes
_REFUSAL = json.dumps({"error": f"a request's head may have {MAX_BESIDE_BODY:,} bytes, this one is longer"}).encode()


class BoundedProtocol(HttpToolsProtocol):
    """Cuts off a connection that sends more beside the body than MAX_BESIDE_BODY and as much as the body.

    llhttp keeps a head, the fields behind a chunked body and what a chunk says of itself, however long they get.
    """

    _beside = 0  # bytes of this request so far, those of the body left out
    _body = 0

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._beside += len(data)
        super().data_received(data)
        if self._beside > MAX_BESIDE_BODY + self._body and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:  # otherwise the answer of another request is written
                self._refuse()
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request; what else came with its first bytes is little."""
        super().on_message_begin()
        self._beside = self._body = 0

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._beside -= len(body)
        self._body += len(body)
        super().on_body(body)

    def _refuse(self) -> None:
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(_REFUSAL)
        self.transport.write(STATUS_LINE[431] + head + _REFUSAL)
