"""The command that serves a registered model over HTTP."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli.options import Model, registered_name, takes
from darkroom.errors import ParamsError

app = typer.Typer()
TOKEN = "DARKROOM_SERVE_TOKEN"  # noqa: S105 - the name of the variable


@dataclass(frozen=True)
class ServeOptions:
    """The options of `darkroom serve`."""

    model: Model = None
    alias: Annotated[str, typer.Option(help="Alias of the version to serve; the server follows it.")] = "champion"
    version: Annotated[str | None, typer.Option(help="Serve this version and do not follow the alias.")] = None
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port, printed in the log.")
    ] = 8000
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the bearer token that clients must send; or set {TOKEN}."),
    ] = None
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two checks of the alias.")] = 5.0
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Number of threads that decode and predict; default: one per core, at least 2."),
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
    access_log: Annotated[bool, typer.Option("--access-log/--no-access-log", help="Log one line per request.")] = True
    log: Annotated[
        Path | None,
        typer.Option(help="Directory of the log of predictions and feedback, for `darkroom drift`."),
    ] = None
    keep_images: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of the images to keep in the log's directory; 0: none.")
    ] = 0.0
    keep_days: Annotated[
        float, typer.Option(min=0.0001, max=36500, help="Days after which a kept image is deleted.")
    ] = 30.0
    keep_mb: Annotated[int, typer.Option(min=1, help="Maximum size of all kept images in MB; the oldest go.")] = 1000


@app.command()
@takes(ServeOptions)
def serve(given: ServeOptions) -> None:
    """Serve a registered model over HTTP, with a page at /; follows promotions and rollbacks without a restart.

    The port opens once a version is loaded. Log lines are JSON on stderr. On SIGTERM the server answers in-flight
    requests, then stops.
    """
    # Until there is something to end in order: an exception of a handler can be lost, or become an ImportError, in the
    # C libraries that are loaded below.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if given.max_waiting < given.max_images:
        raise ParamsError(
            f"--max-waiting {given.max_waiting} is less than --max-images {given.max_images}; such requests could "
            "never be served"
        )
    if given.keep_images and given.log is None:
        raise ParamsError("--keep-images keeps images in the log's directory; also pass --log DIRECTORY")
    name, token = registered_name(given.model), _token(given.token_file)
    from darkroom.monitoring.kept_images import Keeping
    from darkroom.serving.limits import Limits
    from darkroom.serving.server import Settings, serve

    limits = Limits(
        max_body_bytes=given.max_body_mb << 20,
        max_held_bytes=max(16 * given.max_body_mb, 256) << 20,
        max_pixels=int(given.max_megapixels * 1_000_000),
        max_images=given.max_images,
        max_waiting=given.max_waiting,
        max_batch=given.max_batch,
        head_seconds=given.head_seconds,
        body_seconds=given.body_seconds,
    )
    keeping = Keeping(given.keep_images, given.keep_days * 86400, given.keep_mb << 20) if given.keep_images else None
    serve(
        Settings(
            name=name,
            alias=given.alias,
            version=given.version,
            host=given.host,
            port=given.port,
            token=token,
            poll_seconds=given.poll_seconds,
            n_threads=given.threads or max(2, len(os.sched_getaffinity(0))),
            network_threads=given.network_threads,
            access_log=given.access_log,
            log_folder=given.log,
            keeping=keeping,
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
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise ParamsError(f"{source}: expected one word of ASCII characters")
    return token
