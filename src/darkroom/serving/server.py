"""Assemble the server: its parts, its socket, its workers, its signals."""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvloop
from starlette.types import ASGIApp

from darkroom.deployable.machine import usable_cores, usable_memory
from darkroom.errors import ParamsError
from darkroom.monitoring.feedback import FeedbackLog
from darkroom.monitoring.kept_images import Keeping
from darkroom.monitoring.log import PredictionLog
from darkroom.monitoring.retention import Retention
from darkroom.project.console import native_stderr_silenced
from darkroom.registry import versions
from darkroom.registry.snapshot import Version
from darkroom.serving.app import build
from darkroom.serving.batching import Batcher
from darkroom.serving.feedback import Feedback
from darkroom.serving.follower import Follower
from darkroom.serving.front import Front
from darkroom.serving.http_server import HttpServer
from darkroom.serving.limits import Limits, Unready
from darkroom.serving.logs import log, never_waiting
from darkroom.serving.messages import Task
from darkroom.serving.metrics import Metrics
from darkroom.serving.origins import opened_to
from darkroom.serving.pools import OnBatch, Pools
from darkroom.serving.predictions import Predictions
from darkroom.serving.recorder import Answered, Recorder
from darkroom.serving.worker_process import Image

GRACE_SECONDS = 30  # for requests in flight after SIGTERM
LAST_SECONDS = 5.0  # for the workers after that
SERVER_BYTES = 512 << 20  # of the server itself, with max_held_bytes of requests
WORKER_BYTES = 128 << 20  # of a worker with a small network; measured: 90 MB
LEAST_BYTES, MOST_BYTES = 256 << 20, 2 << 30  # that a worker may allocate for images
MOST_EXPLAINED = 4  # accepted and unanswered requests for explanations; further ones get 503
OPEN_FILES = 65_536
BACKLOG = 2048  # connections that wait to be accepted


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        alias: of the version to serve, followed; ignored if `version` is given.
        version: to serve without following the alias.
        port: 0: any free one.
        root_path: see Front.
        cors_origins: origins of pages that may send requests.
        poll_seconds: between two polls of the registry.
        n_workers: number of processes that decode images and run the network.
        network_threads: per inference.
        log_folder: of the log of predictions and of feedback; None: no log, and no feedback.
        keeping: limits of kept images in the log's directory; None: none are kept.
        retention: limits of the log; None: none.
        explains: whether answers are explained, by one more process.
        drain_seconds: in which connected clients may still send requests after SIGTERM.
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
    n_workers: int
    network_threads: int
    access_log: bool
    log_folder: Path | None
    keeping: Keeping | None
    retention: Retention | None
    explains: bool
    drain_seconds: float
    limits: Limits


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish requests in flight. Nothing listens before a version is loaded.

    Raises:
        RegistryError: the version does not exist, or cannot be loaded.
        ParamsError: the address is taken, or not one of this machine.
    """
    bound = _bind(settings.host, settings.port)  # first, so that a taken port is reported at once
    if settings.token is None and not ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback:
        open_to_all = "anyone who reaches this address can ask the model; set a token with --token-file"
        log("no_token", f"--host {settings.host} without a token: {open_to_all}")
    _allow_open_files()
    # It logs errors in forms, which the answer reports anyway.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    # Messages of C libraries about broken images would appear between the lines of the log.
    with bound, native_stderr_silenced(), never_waiting():
        uvloop.run(_serve(settings, bound))


def n_workers_of(*, n_beside: int = 0) -> int:
    """Return the number of workers for this machine or container: one per core, at least 2, as memory allows.

    With two, one can answer while the other decodes a large image.

    Args:
        n_beside: number of other processes of the same size.
    """
    memory = usable_memory()
    room = usable_cores() if memory is None else (memory - SERVER_BYTES) // (WORKER_BYTES + LEAST_BYTES) - n_beside
    return max(2, min(usable_cores(), room))


def worker_bytes_of(n_workers: int) -> int:
    """Return the bytes that each worker may allocate for images: 2 GB, or its share of the container's memory."""
    memory = usable_memory()
    if memory is None:
        return MOST_BYTES
    share = (memory - SERVER_BYTES) // n_workers - WORKER_BYTES
    return max(LEAST_BYTES, min(MOST_BYTES, share))


async def _serve(settings: Settings, bound: socket.socket) -> None:
    limits, metrics = settings.limits, Metrics()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    async with AsyncExitStack() as parts:
        recorder = parts.enter_context(_recording(settings, metrics))
        pools = _pools(settings, metrics, recorder)
        parts.push_async_callback(pools.finish, LAST_SECONDS)
        follower = await asyncio.to_thread(_follower, settings, pools)
        # Until here a signal ends the process at once; from here on it shuts down cleanly.
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, stop.set)
        http = HttpServer(idle_seconds=limits.head_seconds)

        def unready() -> str | None:
            trouble = follower.served.pool.trouble(limits.ready_seconds)
            return "the server is about to stop" if http.is_draining else trouble

        http.app = _application(settings, follower=follower, metrics=metrics, unready=unready)
        with _address_errors(*bound.getsockname()[:2]):  # another process may have bound it as well, and listened first
            listening = await http.listen(bound, backlog=BACKLOG)
        _say_serving(bound, follower.served.version)
        if settings.version is None:
            parts.callback(follower.close)
            follower.start()
        drain = settings.drain_seconds
        await http.serve(listening, stop=stop, drain_seconds=drain, grace_seconds=GRACE_SECONDS)
    log("ended", "shut down cleanly; all in-flight requests were answered")


def _say_serving(bound: socket.socket, version: Version) -> None:
    host, port = bound.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    what = {"url": url, "model": version.name, "version": version.version}
    log("serving", f"{version.name} version {version.version} on {url}", **what)


def _application(settings: Settings, *, follower: Follower, metrics: Metrics, unready: Unready) -> ASGIApp:
    limits, alias = settings.limits, None if settings.version else settings.alias
    batcher = Batcher(max_waiting=limits.max_waiting, seconds=limits.request_seconds)
    explainer = None
    if settings.explains:
        advice = "try again later; if it never answers, its operator can raise --request-seconds"
        explainer = Batcher(max_waiting=MOST_EXPLAINED, seconds=limits.request_seconds, advice=advice)
    feedback_log = FeedbackLog(settings.log_folder) if settings.log_folder else None
    inner = build(
        follower=follower,
        metrics=metrics,
        limits=limits,
        alias=alias,
        root_path=settings.root_path,
        needs_token=settings.token is not None,
        takes_feedback=feedback_log is not None,
        explains=settings.explains,
        n_waiting=lambda: batcher.n_waiting + (explainer.n_waiting if explainer else 0),
        unready=unready,
    )
    predictions = Predictions(follower=follower, batcher=batcher, explainer=explainer, metrics=metrics, limits=limits)
    feedback = Feedback(feedback_log, follower=follower, metrics=metrics, limits=limits)
    front = Front(
        inner,
        posted=[predictions.of, feedback.of],
        follower=follower,
        metrics=metrics,
        root_path=settings.root_path,
        token=settings.token,
        access_log=log if settings.access_log else None,
        failed=log,
    )
    return opened_to(front, settings.cors_origins)


def _pools(settings: Settings, metrics: Metrics, recorder: Recorder | None) -> Pools:
    limits = settings.limits

    def task_of(version: Version) -> Task:
        return Task(
            version=version,
            network_threads=settings.network_threads,
            max_pixels=limits.max_pixels,
            max_batch=limits.max_batch,
            seconds=limits.image_seconds,
            memory_bytes=limits.worker_bytes,
            is_logged=settings.log_folder is not None,
        )

    return Pools(
        task_of,
        n_workers=settings.n_workers,
        explain_seconds=limits.request_seconds if settings.explains else None,
        on_batch=_noting(metrics, recorder),
        ended=metrics.restarted,
    )


def _follower(settings: Settings, pools: Pools) -> Follower:
    return Follower(
        find=lambda: versions.find(settings.name, alias=settings.alias, version=settings.version),
        load=pools.load,
        retire=pools.retire,
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


def _noting(metrics: Metrics, recorder: Recorder | None) -> OnBatch:
    def note(version: Version, images: list[Image], notes: dict[str, Any]) -> None:
        metrics.note(version.version, images, notes)
        if recorder:
            keys = ("id", "label", "probability", "familiarity", "measures")
            answered = [
                Answered(
                    data=image.data,
                    request_id=image.group.id,
                    position=image.position,
                    **{key: one[key] for key in keys},
                )
                for image, one in zip(images, notes["images"], strict=True)
            ]
            recorder.record(version.version, answered)

    return note


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound but does not listen, so that clients are refused until it does."""
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
    return bound


@contextmanager
def _address_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParamsError(f"{host}:{port}: {reason}; choose another --host or --port") from None


def _allow_open_files() -> None:
    """Raise the limit of open files, often 1,024, as far as allowed, because every connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
