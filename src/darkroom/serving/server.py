"""Runs the application: its parts, its socket, its signals, and an eye on connections that send nothing."""

import math
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from darkroom import versions
from darkroom.console import native_stderr_silenced
from darkroom.errors import ParamsError
from darkroom.monitoring import PredictionLog
from darkroom.serving.app import build
from darkroom.serving.batching import Answer, Batcher
from darkroom.serving.following import Follower, Served, load
from darkroom.serving.front import Front
from darkroom.serving.logs import log
from darkroom.serving.metrics import Metrics
from darkroom.serving.recording import Recorder
from darkroom.serving.settings import Limits

GRACE_SECONDS = 30  # for what is in flight when the process is asked to end
OPEN_FILES = 65_536


@dataclass(frozen=True)
class Settings:
    """What to serve, and where.

    Attributes:
        alias: followed; ignored where `version` is given.
        version: served for good.
        port: 0: any free one.
        poll_seconds: between two looks at the registry.
        n_threads: that decode images and run the network.
        network_threads: of one inference.
        log_folder: of the log of predictions; None: none is kept.
    """

    name: str
    alias: str
    version: str | None
    host: str
    port: int
    token: str | None
    poll_seconds: float
    n_threads: int
    network_threads: int
    access_log: bool
    log_folder: Path | None
    limits: Limits


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what is in flight.

    Raises:
        RegistryError: there is no such version, or it does not load.
        ParamsError: the address is taken, or none of this machine.
    """
    limits = settings.limits
    listening = _listen(settings.host, settings.port)  # first: a port that is taken is told at once
    _allow_open_files()
    # What C libraries write about broken images would stand between the lines of the log.
    with listening, native_stderr_silenced():
        follower = Follower(
            find=lambda: versions.find(settings.name, alias=settings.alias, version=settings.version),
            load=lambda version: load(
                version,
                network_threads=settings.network_threads,
                max_pixels=limits.max_pixels,
                max_batch=limits.max_batch,
            ),
            log=log,
            seconds=settings.poll_seconds,
        )
        metrics = Metrics()
        recorder = Recorder(PredictionLog(settings.log_folder), log=log) if settings.log_folder else None
        batcher = Batcher(
            n_threads=settings.n_threads,
            max_batch=limits.max_batch,
            max_waiting=limits.max_waiting,
            on_batch=_noting(metrics, recorder),
        )
        alias = None if settings.version else settings.alias
        inner = build(
            follower=follower, metrics=metrics, limits=limits, alias=alias, n_waiting=lambda: batcher.n_waiting
        )
        front = Front(
            inner,
            follower=follower,
            batcher=batcher,
            metrics=metrics,
            limits=limits,
            token=settings.token,
            log=log if settings.access_log else None,
            failed=log,
        )
        try:
            if alias:
                follower.start()
            _run(front, listening, served=follower.served, head_seconds=limits.head_seconds)
        finally:
            follower.close()
            batcher.close()
            if recorder:
                recorder.close()


def _run(front: Front, listening: socket.socket, *, served: Served, head_seconds: float) -> None:
    idle = _IdleConnections(head_seconds)
    config = uvicorn.Config(
        front,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=math.ceil(head_seconds),
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_notify=1,
        callback_notify=lambda: idle.close(server.server_state.connections),
    )
    server = uvicorn.Server(config)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    version = served.version
    log(
        "serving",
        f"{version.name} version {version.version} on {url}",
        url=url,
        model=version.name,
        version=version.version,
    )
    # uvicorn ends what is in flight and raises the signal again, for whoever handled it before: an end is no error.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
    log("ended", "what was in flight is answered")


class _IdleConnections:
    """Closes connections that for some seconds send no request, or its head byte by byte; uvicorn waits for ever."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Any, tuple[Any, float]] = {}  # connection -> (its last request, first seen waiting)

    async def close(self, connections: set[Any]) -> None:
        now = time.monotonic()
        waiting = {one: one.cycle for one in connections if one.cycle is None or one.cycle.response_complete}
        known = self._waiting
        self._waiting = {
            one: known[one] if one in known and known[one][0] is cycle else (cycle, now)
            for one, cycle in waiting.items()
        }
        for one, (_, since) in list(self._waiting.items()):
            if now - since > self._seconds:
                one.transport.close()


def _noting(metrics: Metrics, recorder: Recorder | None) -> Callable[[Served, list[Any]], None]:
    def note(served: Served, answered: list[tuple[bytes, Any, Answer]]) -> None:
        metrics.batch_images.observe(len(answered))
        for _, _, answer in answered:
            metrics.predictions.labels(served.version.version, answer["label"]).inc()
        if recorder:
            recorder.record(served.version.version, answered)

    return note


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise ParamsError(f"{host}:{port}: {reason}; choose another --host or --port") from None
    # Inherited by every connection. asyncio sets it only on sockets that name their protocol, and without it an answer,
    # which uvicorn writes in two pieces, takes 40 ms longer.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _allow_open_files() -> None:
    """Raise the number of connections that the system lets this process have, often 1,024, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
