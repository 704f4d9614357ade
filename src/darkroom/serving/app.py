"""Every path but POST /v1/predict, which front.py answers; the routes of all are here, for FastAPI to describe."""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from darkroom.serving.follower import Follower
from darkroom.serving.front import PREDICT
from darkroom.serving.limits import Limits
from darkroom.serving.metrics import CONTENT_TYPE, Metrics
from darkroom.serving.schemas import Answer, Images, ModelFacts, NoneRead, OneImage, Problem, Status

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
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVQIHWP4DwABAQEANl9ngAAAAABJRU5ErkJggg=="  # PNG, white
ENCODED = Body(openapi_examples={"one": {"value": {"image": PIXEL}}, "several": {"value": {"images": [PIXEL, PIXEL]}}})
BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "properties": {"image": {"type": "array", "items": BINARY}}, "required": ["image"]}
BODIES = {"image/*": BINARY, "application/octet-stream": BINARY, "multipart/form-data": FORM}  # besides JSON
EXAMPLE = {
    "model": "pets",
    "version": "3",
    "predictions": [
        {"label": "cat", "probability": 0.97, "probabilities": {"cat": 0.97, "dog": 0.03}, "abstained": False},
        {"error": "12 bytes are not an image; expected JPEG, PNG, WebP, BMP, GIF or TIFF"},
    ],
}
REFUSALS = {
    400: "The body is empty, or not in the form that its Content-Type announces, or has too many images.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the limit; the rest of it was not read.",
    415: "The Content-Type is not understood.",
    503: "Too much is waiting already; Retry-After says when to come back.",
}


def build(
    *,
    follower: Follower,
    metrics: Metrics,
    limits: Limits,
    alias: str | None,
    needs_token: bool,
    n_waiting: Callable[[], int],
) -> FastAPI:
    """Return the application.

    Args:
        alias: that is followed; None: the version is fixed.
        needs_token: whether the front asks for a token.
        n_waiting: returns the number of images that are accepted and not answered.
    """
    summary = "Classifies images with the registered version under an alias."
    app = FastAPI(title="Darkroom", summary=summary, version=_version(), docs_url=None, redoc_url=None)
    protected = APIRouter(
        dependencies=[Depends(HTTPBearer(auto_error=False))] if needs_token else [],
        responses={401: {"model": Problem, "description": "The token is missing or wrong."}},
    )
    _add_predict(protected)

    @protected.get("/v1/model", summary="The loaded version and its input format")
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

    @app.get("/readyz", summary="Is a version loaded?")
    async def readyz() -> Status:
        return Status(status="ready")

    @protected.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def prometheus() -> Response:
        metrics.waiting.set(n_waiting())
        served = follower.served.version
        return Response(metrics.text(model=served.name, version=served.version), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
        return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)

    app.include_router(protected)
    _add_page(app)
    return app


def _add_predict(router: APIRouter) -> None:
    example = {"application/json": {"example": EXAMPLE}}
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "At least one image was classified.", "content": example},
        422: {"description": "No image could be read.", "model": NoneRead},
        **{status: {"description": text, "model": Problem} for status, text in REFUSALS.items()},
    }
    content = {content_type: {"schema": schema} for content_type, schema in BODIES.items()}

    # For the document, and for the answer to other methods: front.py answers a POST before it comes here.
    @router.post(
        PREDICT,
        summary="Classify one image or several",
        operation_id="predict",
        response_model=Answer,
        responses=responses,
        openapi_extra={"requestBody": {"content": content}},
    )
    async def predict(body: Annotated[OneImage | Images, ENCODED]) -> None:
        """One image that cannot be read is answered with 422.

        Of several, each has its own answer, and the status is 422 only if none could be read.
        """


def _add_page(app: FastAPI) -> None:
    for path, file, media_type in [
        ("/", "page.html", "text/html"),
        *((f"/static/{name}", name, media_type) for name, media_type in ASSETS.items()),
    ]:
        app.get(path, include_in_schema=False)(_file(STATIC / file, media_type))


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
