"""The FastAPI application: all routes for the OpenAPI document; front.py answers POST to /v1 before it."""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from fastapi.openapi.models import Example
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from darkroom.serving import open_inference
from darkroom.serving.feedback import FEEDBACK
from darkroom.serving.follower import Follower
from darkroom.serving.limits import Limits, Unready
from darkroom.serving.metrics import CONTENT_TYPE, Metrics
from darkroom.serving.predictions import EXPLAIN, PREDICT
from darkroom.serving.schemas import (
    REFUSALS,
    Answer,
    Explanation,
    Images,
    Labels,
    ModelFacts,
    NoneRead,
    OneImage,
    OneLabel,
    Problem,
    Status,
    Stored,
)

STATIC = Path(__file__).parent / "static"
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVQIHWP4DwABAQEANl9ngAAAAABJRU5ErkJggg=="  # PNG, white
ONE: dict[str, Example] = {"one": {"value": {"image": PIXEL}}}
ENCODED = Body(openapi_examples={**ONE, "several": {"value": {"images": [PIXEL, PIXEL]}}})
BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "properties": {"image": {"type": "array", "items": BINARY}}, "required": ["image"]}
BODIES = {"image/*": BINARY, "application/octet-stream": BINARY, "multipart/form-data": FORM}  # besides JSON
CONTENT = {content_type: {"schema": schema} for content_type, schema in BODIES.items()}
TRUE = {"id": "5f2b" * 16, "label": "dog"}
LABELS = Body(openapi_examples={"one": {"value": TRUE}, "several": {"value": {"feedback": [TRUE]}}})
ID = {  # front.py answers every request with the same header
    "name": "X-Request-ID",
    "in": "header",
    "description": "Copied to the answer and the logs, if it is 1 to 128 letters, digits or . _ : = + / @ -",
    "schema": {"type": "string", "maxLength": 128},
}
TRACE = {
    "name": "traceparent",
    "in": "header",
    "description": "Of a trace (W3C Trace Context); copied to the answer and the logs.",
    "schema": {"type": "string", "maxLength": 200},
}
EXAMPLE = {
    "request_id": "9f86d081884c7d65",
    "model": "pets",
    "version": "3",
    "predictions": [
        {"label": "cat", "probability": 0.97, "probabilities": {"cat": 0.97, "dog": 0.03}, "abstained": False},
        {"error": "12 bytes are not an image; expected JPEG, PNG, WebP, BMP, GIF or TIFF"},
    ],
}
EVERYWHERE: dict[int | str, dict[str, Any]] = {
    405: {"model": Problem, "description": "This path does not allow the method; see Allow."},
    500: {"model": Problem, "description": "The server failed; its log says why."},
}
SHOWN = [  # front.py reads them
    {
        "name": "top",
        "in": "query",
        "description": "Maximum number of probabilities per image, the greatest first; default: all.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999999999},
    },
    {
        "name": "threshold",
        "in": "query",
        "description": "Mark answers with a smaller probability as abstained; default: abstain_below of the model.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
    },
]


def build(
    *,
    follower: Follower,
    metrics: Metrics,
    limits: Limits,
    alias: str | None,
    root_path: str,
    needs_token: bool,
    takes_feedback: bool,
    explains: bool,
    n_waiting: Callable[[], int],
    unready: Unready,
) -> FastAPI:
    """Return the application.

    Args:
        alias: to follow; None: the version is fixed.
        root_path: prefix of a proxy in front, for the OpenAPI document; empty: none.
        needs_token: whether a token is required.
        takes_feedback: whether true labels are accepted.
        explains: whether answers are explained.
        n_waiting: returns the number of images that are accepted and not answered.
        unready: returns why the server should get no requests, None if it should.
    """
    summary = "Classifies images with the registered version under an alias."
    app = FastAPI(
        title="Darkroom",
        summary=summary,
        version=_version(),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": root_path}] if root_path else None,
        responses=EVERYWHERE,
    )
    protected = APIRouter(
        dependencies=[Depends(HTTPBearer(auto_error=False))] if needs_token else [],
        responses={401: {"model": Problem, "description": "The token is missing or wrong."}},
    )
    _add_predict(protected)
    _add_explain(protected)
    _add_feedback(protected)
    does = {"feedback": takes_feedback, "explain": explains}
    _add_facts(protected, follower=follower, limits=limits, alias=alias, does=does)

    @protected.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def prometheus() -> Response:
        metrics.waiting.set(n_waiting())
        return Response(metrics.text(follower), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
        body = {"error": sentence, "request_id": request.state.request_id}
        return JSONResponse(body, error.status_code, headers=error.headers)

    _add_probes(app, unready)
    open_inference.add_routes(protected, follower, unready)
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

    # For the OpenAPI document, and for the answer to other methods; front.py answers POST before.
    @router.post(
        PREDICT,
        summary="Classify one image or several",
        operation_id="predict",
        response_model=Answer,
        responses=responses,
        openapi_extra={"requestBody": {"content": CONTENT}, "parameters": [ID, TRACE, *SHOWN]},
    )
    async def predict(body: Annotated[OneImage | Images, ENCODED]) -> None:
        """An image that cannot be read is answered with 422.

        Several images have separate answers, and the status is 422 only if none could be read.
        """


def _add_explain(router: APIRouter) -> None:
    described = {
        **REFUSALS,
        404: "The server does not explain its answers; start it with --explain.",
        422: "The image could not be read.",
    }

    # For the document, as predict is.
    @router.post(
        EXPLAIN,
        summary="Show what in an image supports its class",
        operation_id="explain",
        response_model=Explanation,
        responses={status: {"description": text, "model": Problem} for status, text in described.items()},
        openapi_extra={"requestBody": {"content": CONTENT}, "parameters": [ID, TRACE]},
    )
    async def explain(body: Annotated[OneImage, Body(openapi_examples=ONE)]) -> None:
        """One image per request, in the forms of /v1/predict.

        A map that is not exact takes 400 inferences. Maps are made one at a time.
        """


def _add_feedback(router: APIRouter) -> None:
    described = {
        **{status: text for status, text in REFUSALS.items() if status != 400},
        400: "The body is not JSON of the expected form, or has too many labels.",
        404: "The server takes no feedback, because it keeps no log of predictions.",
        422: "A label is not the name of a class, or differs from a class in case alone; the error lists the classes.",
        503: "The labels could not be stored, or too much is waiting already.",
    }

    # For the document, as predict is.
    @router.post(
        FEEDBACK,
        summary="Send the true classes of classified images",
        operation_id="feedback",
        response_model=Stored,
        responses={status: {"description": text, "model": Problem} for status, text in described.items()},
        openapi_extra={"parameters": [ID, TRACE]},
    )
    async def feedback(body: Annotated[OneLabel | Labels, LABELS]) -> None:
        """A label may be a class that the model does not know: then the model was wrong, and unknown_classes lists it.

        If an image has several labels, the last one counts. Labels answered with 200 are on the disk.
        """


def _add_facts(
    router: APIRouter, *, follower: Follower, limits: Limits, alias: str | None, does: dict[str, bool]
) -> None:
    @router.get("/v1/model", summary="The loaded version and its input format")
    async def model(request: Request) -> ModelFacts:
        served = follower.served
        return ModelFacts(
            request_id=request.state.request_id,
            model=served.version.name,
            version=served.version.version,
            alias=alias,
            since=served.since,
            run_id=served.version.run_id,
            classes=served.facts.classes,
            image_shape=list(served.facts.image_shape),
            abstain_below=served.facts.abstain_below,
            unknown_below=served.facts.unknown_below,
            coverage=served.facts.coverage,
            problem=follower.problem,
            max_body_bytes=limits.max_body_bytes,
            max_pixels=limits.max_pixels,
            max_images=limits.max_images,
            **does,
        )


def _add_probes(app: FastAPI, unready: Unready) -> None:
    refused: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Not now; error says why."}}

    @app.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Status:
        return Status(status="ok")

    @app.get("/readyz", summary="Should it get requests?", responses=refused)
    async def readyz() -> Status:
        open_inference.check_ready(unready)
        return Status(status="ready")

    @app.get(open_inference.LIVE, summary="Is the process alive?")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get(open_inference.READY, summary="Should it get requests?", responses=refused)
    async def ready() -> dict[str, bool]:
        open_inference.check_ready(unready)
        return {"ready": True}


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
