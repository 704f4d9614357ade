"""`python -m benchmarks.peers.serving_bentoml PORT` serves with BentoML; see serving_classifier.py."""

import base64
import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.serving_classifier import N_CORES, Classifier


@bentoml.service(workers=N_CORES, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Classify:
    """Classifies the image of a request."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, image: str) -> dict[str, Any]:
        """Return label and probabilities of an image file in base64."""
        return self.classifier.answer(base64.b64decode(image))


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.peers.serving_bentoml:Classify"]
    options = ["--host", "127.0.0.1", "--port", sys.argv[1], "--working-dir", str(Path(__file__).parents[2])]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.execv(sys.executable, [*command, *options])  # noqa: S606 - a program of this environment
