"""`python -m benchmarks.peers.serving_litserve PORT` serves with LitServe; see serving_classifier.py."""

import base64
import sys
from typing import Any

import litserve

from benchmarks.peers.serving_classifier import N_CORES, Classifier


class Api(litserve.LitAPI):
    """Classifies the image of a request."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's name
        self.classifier = Classifier()

    def decode_request(self, request: dict[str, Any]) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, x: bytes) -> dict[str, Any]:
        return self.classifier.answer(x)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=N_CORES, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, access_log=False)
