"""`darkroom ui`: MLflow's UI on this repository's store, opened at the page that shows the runs."""

import os
import socket
import subprocess
import sys
import time
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer

from darkroom.errors import RegistryError
from darkroom.project.console import say
from darkroom.project.repository import checkout
from darkroom.project.text import redact

app = typer.Typer()

START_SECONDS = 120  # for the server to answer; it takes 10 on an idle machine
HOST = "127.0.0.1"


@app.command()
def ui(
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port; the next free one if it is taken.")
    ] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Whether to open a browser.")] = True,
) -> None:
    """Show the runs in MLflow's UI: prints the address of the page and opens it; Ctrl-C stops the server."""
    checkout()
    from darkroom.tracking.store import tracking_uri

    uri, page = tracking_uri(), _page()
    if uri.startswith("http"):
        _show(f"{uri.rstrip('/')}/{page}", browser=browser)
        return
    free = _free(port)
    if free != port:
        say(f"port {port} is taken; using {free}")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", HOST, "--port", str(free)]
    # MLflow's jobs are for language models and cost three more processes.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    with subprocess.Popen(command, env=environment) as server:  # its address may hold a password
        try:
            _wait(server, free)
            _show(f"http://{HOST}:{free}/{page}", browser=browser)
            server.wait()
        finally:
            server.terminate()
    raise typer.Exit(server.returncode)


def _page() -> str:
    """Return the address of the latest runs, or of the list of experiments if there are no runs."""
    from darkroom.tracking.experiments import latest
    from darkroom.tracking.pages import MODE, runs_page

    experiment_id = latest()
    if experiment_id is None:
        say("there are no runs yet; `dvc repro` creates the first one")
        return f"#/experiments?{MODE}"
    return runs_page(experiment_id)


def _free(port: int) -> int:
    """Return the port, or the next one that nobody listens on."""
    for candidate in range(port, min(port + 100, 65536)):
        with socket.socket() as sought:
            sought.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                sought.bind((HOST, candidate))
                return candidate
    raise RegistryError(f"no free port from {port} to {port + 99}; pass another --port")


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Return once the server answers.

    Raises:
        RegistryError: it ended, or does not answer.
    """
    until = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.2)
    raise RegistryError("MLflow's server did not start; its own lines above say why")


def _show(address: str, *, browser: bool) -> None:
    print(f"runs: {redact(address)}", flush=True)
    if browser:
        webbrowser.open(address)
