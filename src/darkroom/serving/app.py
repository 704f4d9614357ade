"""Every path but POST /v1/predict, and the document that describes them all."""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from darkroom.serving.follower import Follower
from darkroom.serving.front import PREDICT
from darkroom.serving.limits import Limits
from darkroom.serving.metrics import CONTENT_TYPE, Metrics
from darkroom.serving.openapi import SUMMARY, ModelFacts, Problem, Status, with_predict

STATIC = Path(__file__).parent / "static"
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def build(
    *, follower: Follower, metrics: Metrics, limits: Limits, alias: str | None, n_waiting: Callable[[], int]
) -> FastAPI:
    """Return the application.

    Args:
        alias: that is followed; None: the version is fixed.
        n_waiting: returns the number of images that are accepted and not answered.
    """
    app = FastAPI(title="Darkroom", version=_version(), docs_url=None, redoc_url=None)
    problem: dict[int | str, dict[str, Any]] = {401: {"model": Problem}}

    @app.get("/v1/model", responses=problem, summary="The version that answers, and what it expects")
    async def model() -> ModelFacts:
        served = follower.served
        return ModelFacts(
            model=served.version.name,
            version=served.version.version,
            alias=alias,
            since=served.since,
            run_id=served.version.run_id,
            classes=served.package.classes,
            image_shape=list(served.package.image_shape),
            abstain_below=served.package.abstain_below,
            problem=follower.problem,
            max_body_bytes=limits.max_body_bytes,
            max_pixels=limits.max_pixels,
            max_images=limits.max_images,
        )

    @app.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Status:
        return Status(status="ok")

    @app.get("/readyz", summary="Is a version loaded? Nothing listens before")
    async def readyz() -> Status:
        return Status(status="ready")

    @app.get("/metrics", responses={**problem, 200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def prometheus() -> Response:
        metrics.waiting.set(n_waiting())
        served = follower.served.version
        return Response(metrics.text(model=served.name, version=served.version), media_type=CONTENT_TYPE)

    for path, file, media_type in [
        ("/", "page.html", "text/html"),
        *((f"/static/{name}", name, media_type) for name, media_type in ASSETS.items()),
    ]:
        app.get(path, include_in_schema=False)(_file(STATIC / file, media_type))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {request.url.path}: {error.detail}; /openapi.json lists what there is"
        return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(title=app.title, version=app.version, routes=app.routes, summary=SUMMARY)
            app.openapi_schema = with_predict(described, PREDICT)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _file(path: Path, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = path.read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return answer


def _version() -> str:
    try:
        return version("darkroom")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
