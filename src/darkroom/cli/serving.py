"""The command that serves a registered model over HTTP."""

import math
import os
import re
import signal
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli.options import Model, registered_name, takes
from darkroom.errors import ParamsError

app = typer.Typer()
PREFIX = "DARKROOM_SERVE"  # of variables: DARKROOM_SERVE_PORT is --port
TOKEN = "DARKROOM_SERVE_TOKEN"  # noqa: S105 - the name of the variable


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Use the values of a file as defaults of the other options."""
    if path is None:
        return None
    from darkroom.project.params import read_params
    from darkroom.project.text import did_you_mean

    if not path.is_file():
        raise ParamsError(f"--config {path}: no such file; expected YAML with a section serve")
    given = read_params(path).get("serve")
    if not isinstance(given, dict):
        raise ParamsError(f"--config {path}: expected a section serve with options, such as `serve: {{port: 8000}}`")
    known = [field.name for field in fields(ServeOptions) if field.name != "config"]
    defaults = {str(key).replace("-", "_"): value for key, value in given.items()}
    for key, value in defaults.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"; known keys: {', '.join(known)}"
            raise ParamsError(f"--config {path}: serve has an unknown key {key!r}{hint}")
        if isinstance(value, dict) or (isinstance(value, list) and key != "cors_origin"):
            raise ParamsError(f"--config {path}: serve.{key} is {value!r}; expected one value")
    context.default_map = {key: value for key, value in defaults.items() if value is not None}
    return path


@dataclass(frozen=True)
class ServeOptions:
    """The options of `darkroom serve`."""

    config: Annotated[
        Path | None,
        typer.Option(
            callback=_read_config,
            is_eager=True,
            help="YAML file whose section serve holds options, e.g. max_images: 8; the command line overrides "
            "variables, which override the file.",
        ),
    ] = None
    model: Model = None
    alias: Annotated[str, typer.Option(help="Alias of the version to serve; the server follows it.")] = "champion"
    version: Annotated[str | None, typer.Option(help="Serve this version and do not follow the alias.")] = None
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port, printed in the log.")
    ] = 8000
    root_path: Annotated[
        str,
        typer.Option(help="Path prefix of a proxy in front, e.g. /darkroom, which may strip it or not."),
    ] = ""
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Origin allowed by CORS, e.g. https://shop.example; * for all. Repeatable."
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the bearer token that clients must send; or set {TOKEN}."),
    ] = None
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two checks of the alias.")] = 5.0
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes that decode and predict; default: one per core, at least 2, as memory allows.",
        ),
    ] = None
    worker_mb: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Memory limit of a worker for images, in MB; a worker that exceeds it is replaced. Default: 2048, or "
            "its share of this container's memory.",
        ),
    ] = None
    network_threads: Annotated[
        int, typer.Option(min=1, help="Threads per inference; more for large networks on many cores.")
    ] = 1
    max_body_mb: Annotated[int, typer.Option(min=1, help="Maximum request size in MB.")] = 16
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Maximum megapixels per image.")] = 50.0
    max_images: Annotated[int, typer.Option(min=1, help="Maximum number of images per request.")] = 64
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Maximum number of images in the queue; beyond it, requests get 503.")
    ] = 256
    max_batch: Annotated[int, typer.Option(min=1, help="Maximum batch size of the network.")] = 16
    head_seconds: Annotated[float, typer.Option(min=1, help="Seconds after which an idle connection is closed.")] = 75.0
    body_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for a request body to arrive.")] = 30.0
    request_seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds from a request's body to its answer; then 503.")
    ] = 30.0
    explain: Annotated[
        bool,
        typer.Option(
            "--explain/--no-explain", help="Explain answers at /v1/explain and on the page, in one more process."
        ),
    ] = False
    image_seconds: Annotated[
        float,
        typer.Option(min=0.1, help="CPU seconds per image; a worker that takes longer is replaced."),
    ] = 10.0
    ready_seconds: Annotated[
        float, typer.Option(min=0.01, help="Seconds that an image may wait before /readyz says 503.")
    ] = 5.0
    drain_seconds: Annotated[
        float,
        typer.Option(min=0, help="Seconds after SIGTERM in which connected clients may still send requests."),
    ] = 5.0
    access_log: Annotated[bool, typer.Option("--access-log/--no-access-log", help="Log one line per request.")] = True
    log: Annotated[
        Path | None,
        typer.Option(help="Directory of the log of predictions and feedback, for `darkroom drift`."),
    ] = None
    log_days: Annotated[
        float | None, typer.Option(min=0.0001, help="Days after which files of the log are deleted; default: never.")
    ] = None
    log_mb: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum size of the log in MB, without images and feedback; the oldest files are deleted."
        ),
    ] = None
    keep_images: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of the images to keep in the log's directory; 0: none.")
    ] = 0.0
    keep_days: Annotated[
        float, typer.Option(min=0.0001, max=36500, help="Days after which a kept image is deleted.")
    ] = 30.0
    keep_mb: Annotated[int, typer.Option(min=1, help="Maximum size of kept images in MB; the oldest go.")] = 1000


@app.command(context_settings={"auto_envvar_prefix": PREFIX})
@takes(ServeOptions)
def serve(given: ServeOptions) -> None:
    """Serve a registered model over HTTP, with a page at /; follows promotions and rollbacks without a restart.

    Every option can be set by a variable, DARKROOM_SERVE_PORT for --port, or in the section serve of --config.

    The port opens once a version is loaded. Images are decoded and classified by worker processes with a limit of time
    and memory; one that ends is replaced. Log lines are JSON on stderr. On SIGTERM /readyz says 503, each client gets
    one more answer per connection, then the server stops.
    """
    # The default handler until the server runs, because an exception raised by a handler can be lost, or become an
    # ImportError, in the C libraries that are loaded below.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if given.max_waiting < given.max_images:
        raise ParamsError(
            f"--max-waiting {given.max_waiting} is less than --max-images {given.max_images}; such requests could "
            "never be served"
        )
    for option, value in (("keep-images", given.keep_images), ("log-days", given.log_days), ("log-mb", given.log_mb)):
        if value and given.log is None:
            raise ParamsError(f"--{option} needs a log's directory; also pass --log DIRECTORY")
    name, token = registered_name(given.model), _token(given.token_file)
    root_path, origins = _root_path(given.root_path), _origins(given.cors_origin or [])
    from darkroom.monitoring.kept_images import Keeping
    from darkroom.monitoring.retention import Retention
    from darkroom.serving.limits import Limits
    from darkroom.serving.server import Settings, n_workers_of, serve, worker_bytes_of

    n_beside = 1 if given.explain else 0
    n_workers = given.workers or n_workers_of(n_beside=n_beside)
    limits = Limits(
        max_body_bytes=given.max_body_mb << 20,
        max_held_bytes=max(16 * given.max_body_mb, 256) << 20,
        max_pixels=int(given.max_megapixels * 1_000_000),
        max_images=given.max_images,
        max_waiting=given.max_waiting,
        max_batch=given.max_batch,
        head_seconds=given.head_seconds,
        body_seconds=given.body_seconds,
        request_seconds=given.request_seconds,
        image_seconds=given.image_seconds,
        ready_seconds=given.ready_seconds,
        worker_bytes=given.worker_mb << 20 if given.worker_mb else worker_bytes_of(n_workers + n_beside),
    )
    keeping = Keeping(given.keep_images, given.keep_days * 86400, given.keep_mb << 20) if given.keep_images else None
    bounded = given.log_days is not None or given.log_mb is not None
    retention = Retention((given.log_days or math.inf) * 86400, (given.log_mb or math.inf) * (1 << 20))
    serve(
        Settings(
            name=name,
            alias=given.alias,
            version=given.version,
            host=given.host,
            port=given.port,
            root_path=root_path,
            cors_origins=origins,
            token=token,
            poll_seconds=given.poll_seconds,
            n_workers=n_workers,
            network_threads=given.network_threads,
            access_log=given.access_log,
            log_folder=given.log,
            keeping=keeping,
            retention=retention if bounded else None,
            explains=given.explain,
            drain_seconds=given.drain_seconds,
            limits=limits,
        )
    )


def _token(file: Path | None) -> str | None:
    if file is None:
        if TOKEN not in os.environ:
            return None
        source, token = TOKEN, os.environ[TOKEN].strip()
    else:
        source = f"--token-file {file}"
        try:
            token = file.read_text().strip()
        except (OSError, ValueError) as error:
            raise ParamsError(f"{source} cannot be read: {error}") from None
    from darkroom.serving.tokens import weakness

    if why := weakness(token):
        raise ParamsError(f"{source}: {why}; set a token that `openssl rand -hex 32` wrote, or one like it")
    return token


def _root_path(text: str) -> str:
    path = text.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9._~/-]*", path) or "//" in path:
        raise ParamsError(f"--root-path {text}: expected a path such as /darkroom")
    return f"/{path}" if path else ""


def _origins(given: list[str]) -> tuple[str, ...]:
    from darkroom.serving.origins import is_origin

    for origin in given:
        if not is_origin(origin):
            raise ParamsError(f"--cors-origin {origin}: expected scheme and host, such as https://shop.example, or *")
    return tuple(given)
