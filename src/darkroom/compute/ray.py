"""Processes that run tasks on a Ray cluster: one that is there, or one started on this machine."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Literal

from darkroom.compute.local import ANSWER_SECONDS
from darkroom.errors import DarkroomError
from darkroom.project.text import first_line


class RayCluster:
    """Actors of a Ray cluster, spread over its nodes.

    Args:
        n: actors, or "auto": as many as the nodes have room for.
        cpus: of each.
        gpus: of each.
        address: of the head, host:port; None starts a cluster of one node here. A Ray that this process is connected to
            already is used, and stays connected.
        environment: variables to set for each actor's process.

    Raises:
        DarkroomError: nothing answers there, or there is no room.
    """

    def __init__(
        self, n: int | Literal["auto"], *, cpus: int, gpus: float, address: str | None, environment: dict[str, str]
    ) -> None:
        import ray

        self._ours = not ray.is_initialized()
        self._options = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": environment},
        }
        if self._ours:
            _connect(address, cpus=None if n == "auto" else n * cpus)
        try:
            self.n = _room(n, cpus=cpus, gpus=gpus, where=address or "this machine")
        except DarkroomError:
            self.close()
            raise

    def start(self, place: int) -> "RayProcess":  # noqa: ARG002 - any node that has room serves any place
        import ray

        return RayProcess(ray.remote(_Actor).options(**self._options).remote())

    def close(self) -> None:
        import ray

        if self._ours:
            ray.shutdown()


class RayProcess:
    """The process of an actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, function: Callable[[bytes], bytes], payload: bytes) -> "Future[bytes]":
        future: Future[bytes] = self._actor.call.remote(function, payload).future()
        return future

    def stop(self) -> None:
        import ray

        ray.kill(self._actor)

    leave = stop

    def cause(self, error: BaseException) -> str:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return next((line for line in lines if line.startswith("The actor is dead because")), lines[0])


class _Actor:
    def call(self, function: Callable[[bytes], bytes], payload: bytes) -> bytes:
        return function(payload)


def _connect(address: str | None, *, cpus: int | None) -> None:
    import ray

    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if address is not None and colon:  # Ray itself tries for minutes, and prints meanwhile
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except (OSError, ValueError) as error:
            raise DarkroomError(f"no Ray cluster answers at {address}: {error}; start one with `ray start`") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here would report to Ray's makers
    here = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    options: dict[str, Any] = {"address": address} if address else here
    with _handler_kept(signal.SIGTERM):
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DarkroomError(f"cannot use the Ray cluster at {address}: {first_line(error)}") from error


@contextmanager
def _handler_kept(number: signal.Signals) -> Iterator[None]:
    """Undo that Ray sets a handler of its own over one of this program."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


def _room(n: int | Literal["auto"], *, cpus: int, gpus: float, where: str) -> int:
    """Return n if the nodes of the Ray cluster have room for as many actors; of "auto" how many they have room for."""
    import ray

    each = {"CPU": cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(node.get(kind, 0) / need) for kind, need in each.items() if need) for node in nodes)
    least = 1 if n == "auto" else n
    if room < least:
        raise DarkroomError(
            f"the Ray cluster at {where} has room for {room} workers of {cpus} CPUs and {gpus} GPUs each, not for "
            f"{least}; ask for fewer or smaller ones, or start more nodes first"
        )
    return room if n == "auto" else n
