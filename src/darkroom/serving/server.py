"""Runs the application: its parts, its socket, its signals, and an eye on connections that send nothing."""

import logging
import math
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from darkroom.errors import ParamsError
from darkroom.monitoring.feedback import FeedbackLog
from darkroom.monitoring.kept_images import Keeping
from darkroom.monitoring.log import PredictionLog
from darkroom.monitoring.retention import Retention
from darkroom.project.console import native_stderr_silenced
from darkroom.registry import versions
from darkroom.registry.snapshot import Version
from darkroom.serving.app import build
from darkroom.serving.batching import Answered, Batcher
from darkroom.serving.follower import Follower, Served, load
from darkroom.serving.front import Front
from darkroom.serving.limits import Limits
from darkroom.serving.logs import log, never_waiting
from darkroom.serving.metrics import Metrics
from darkroom.serving.origins import opened_to
from darkroom.serving.recorder import Recorder

GRACE_SECONDS = 30  # for what is in flight when the process is asked to end
OPEN_FILES = 65_536
BACKLOG = 2048  # connections that wait to be accepted


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        alias: of the version to serve, followed; ignored where `version` is given.
        version: to serve without following the alias.
        port: 0: any free one.
        root_path: see Front.
        cors_origins: of pages that may ask the server.
        poll_seconds: between two looks at the registry.
        n_threads: that decode images and run the network.
        network_threads: of one inference.
        log_folder: of the log of predictions and of feedback; None: none is kept, and no feedback is taken.
        keeping: which images are kept in the log's directory; None: none.
        retention: how long, and how much of, the log is kept; None: all.
    """

    name: str
    alias: str
    version: str | None
    host: str
    port: int
    root_path: str
    cors_origins: tuple[str, ...]
    token: str | None
    poll_seconds: float
    n_threads: int
    network_threads: int
    access_log: bool
    log_folder: Path | None
    keeping: Keeping | None
    retention: Retention | None
    limits: Limits


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what is in flight. Nothing listens before a version is loaded.

    Raises:
        RegistryError: the version does not exist, or cannot be loaded.
        ParamsError: the address is taken, or none of this machine.
    """
    limits = settings.limits
    bound = _bind(settings.host, settings.port)  # first: a port that is taken is told at once
    if settings.token is None and not ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback:
        open_to_all = "anyone who reaches this address can ask the model; set a token with --token-file"
        log("no_token", f"--host {settings.host} without a token: {open_to_all}")
    _allow_open_files()
    # It says of broken forms what the answer says.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    # What C libraries write about broken images would stand between the lines of the log.
    with bound, native_stderr_silenced(), never_waiting(), ExitStack() as parts:
        follower = _follower(settings)
        # From here on threads run that must be ended, so a signal is no longer an exception at any place.
        ending = parts.enter_context(_remembered_sigterm())
        metrics = Metrics()
        recorder = parts.enter_context(_recording(settings, metrics))
        feedback_log = FeedbackLog(settings.log_folder) if settings.log_folder else None
        batcher = Batcher(
            n_threads=settings.n_threads,
            max_batch=limits.max_batch,
            max_waiting=limits.max_waiting,
            on_batch=_noting(metrics, recorder),
            log=log,
        )
        parts.callback(batcher.close)
        alias = None if settings.version else settings.alias
        inner = build(
            follower=follower,
            metrics=metrics,
            limits=limits,
            alias=alias,
            root_path=settings.root_path,
            needs_token=settings.token is not None,
            takes_feedback=feedback_log is not None,
            n_waiting=lambda: batcher.n_waiting,
        )
        front = Front(
            inner,
            root_path=settings.root_path,
            follower=follower,
            batcher=batcher,
            metrics=metrics,
            limits=limits,
            token=settings.token,
            feedback_log=feedback_log,
            log=log if settings.access_log else None,
            failed=log,
        )
        if alias:
            parts.callback(follower.close)
            follower.start()
        _run(
            opened_to(front, settings.cors_origins),
            bound,
            served=follower.served,
            ending=ending,
            head_seconds=limits.head_seconds,
        )


class _Ending:
    """True once the process was asked to stop, even before the server exists."""

    def __init__(self) -> None:
        self._server: uvicorn.Server | None = None
        self._asked = False

    def handle(self, _signum: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._server:
            self._server.should_exit = True

    def tell(self, server: uvicorn.Server) -> None:
        """Have this server end, now or when the signal comes."""
        self._server = server
        if self._asked:
            server.should_exit = True


@contextmanager
def _remembered_sigterm() -> Iterator[_Ending]:
    """Yield what SIGTERM is told to until the end.

    While it runs, uvicorn has a handler of its own; then it raises the signal again for this one, which does nothing
    any more: an end is not an error.
    """
    ending = _Ending()
    before = signal.signal(signal.SIGTERM, ending.handle)
    try:
        yield ending
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(app: ASGIApp, bound: socket.socket, *, served: Served, ending: _Ending, head_seconds: float) -> None:
    idle = _IdleConnections(head_seconds)
    config = uvicorn.Config(
        app,
        # httptools takes less time, but bounds no head, and loses the body of a request that offers an upgrade, as
        # Java's client does.
        http="h11",
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=math.ceil(head_seconds),
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
        timeout_notify=1,
        callback_notify=lambda: idle.close(server.server_state.connections),
    )
    server = uvicorn.Server(config)
    ending.tell(server)
    host, port = bound.getsockname()[:2]
    with _address_errors(host, port):  # another process may have bound it as well, and listened first
        bound.listen(BACKLOG)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    version = served.version
    log(
        "serving",
        f"{version.name} version {version.version} on {url}",
        url=url,
        model=version.name,
        version=version.version,
    )
    server.run(sockets=[bound])
    log("ended", "shut down cleanly; all in-flight requests were answered")


_UNREAD = object()  # more of an answer than uvicorn keeps for a client waits to be read


class _IdleConnections:
    """Drops connections that for some seconds send no request, or its head byte by byte, or do not read their answer.

    uvicorn waits for ever. What is closed still waits for its last bytes to be read; so that is for the first time, and
    a connection that is still there at the next look is cut off.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Any, tuple[Any, float]] = {}  # connection -> (request or _UNREAD, since)

    async def close(self, connections: set[Any]) -> None:
        now = time.monotonic()
        waiting = {
            one: _UNREAD if one.flow.write_paused else one.cycle
            for one in connections
            if one.flow.write_paused or one.cycle is None or one.cycle.response_complete
        }
        known = self._waiting
        self._waiting = {
            one: known[one] if one in known and known[one][0] is state else (state, now)
            for one, state in waiting.items()
        }
        for one, (state, since) in list(self._waiting.items()):
            if now - since <= self._seconds:
                continue
            if state is _UNREAD or one.transport.is_closing():
                one.transport.abort()
            else:
                one.transport.close()


def _follower(settings: Settings) -> Follower:
    def loaded(version: Version) -> Served:
        limits = settings.limits
        threads = settings.network_threads
        return load(version, network_threads=threads, max_pixels=limits.max_pixels, max_batch=limits.max_batch)

    return Follower(
        find=lambda: versions.find(settings.name, alias=settings.alias, version=settings.version),
        load=loaded,
        log=log,
        seconds=settings.poll_seconds,
    )


@contextmanager
def _recording(settings: Settings, metrics: Metrics) -> Iterator[Recorder | None]:
    if settings.log_folder is None:
        yield None
        return
    recorder = Recorder(
        PredictionLog(settings.log_folder),
        log=log,
        dropped=lambda what, n: metrics.log_dropped.labels(what).inc(n),
        keeping=settings.keeping,
        retention=settings.retention,
    )
    try:
        yield recorder
    finally:
        recorder.close()


def _noting(metrics: Metrics, recorder: Recorder | None) -> Callable[[Served, list[Answered]], None]:
    def note(served: Served, answered: list[Answered]) -> None:
        metrics.batch_images.observe(len(answered))
        metrics.network_seconds.observe(answered[0].network_seconds)
        metrics.abstained.labels(served.version.version).inc(sum(one.answer["abstained"] for one in answered))
        metrics.unknown.labels(served.version.version).inc(sum(one.answer.get("unknown", False) for one in answered))
        for one in answered:
            metrics.predictions.labels(served.version.version, one.answer["label"]).inc()
            metrics.queue_seconds.observe(one.queue_seconds)
            metrics.decode_seconds.observe(one.decode_seconds)
        if recorder:
            recorder.record(served.version.version, answered)

    return note


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that has the address and does not listen: clients are refused until it does."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a server that has ended linger
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _address_errors(host, port):
            bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    # Inherited by every connection. uvloop sets it, asyncio only on sockets that name their protocol, and without it an
    # answer, which uvicorn writes in two pieces, takes 40 ms longer.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


@contextmanager
def _address_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParamsError(f"{host}:{port}: {reason}; choose another --host or --port") from None


def _allow_open_files() -> None:
    """Raise the number of connections that the system lets this process have, often 1,024, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
