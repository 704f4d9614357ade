"""`python -m benchmarks.peers.serving_fastapi PORT` serves with FastAPI and uvicorn; see serving_classifier.py."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.serving_classifier import N_CORES, Classifier


def app() -> FastAPI:
    """Return the application of one worker."""
    made, classifier = FastAPI(), Classifier()

    @made.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(classifier.answer, await request.body())

    @made.get("/readyz")
    async def readyz() -> str:
        return "ok"

    return made


if __name__ == "__main__":
    name = "benchmarks.peers.serving_fastapi:app"
    uvicorn.run(
        name, factory=True, port=int(sys.argv[1]), workers=N_CORES, access_log=False, timeout_worker_healthcheck=60
    )
