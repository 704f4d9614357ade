"""Processes that run tasks on a Ray cluster, an existing one or one started on this machine."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Literal

from darkroom.errors import DarkroomError
from darkroom.project.text import first_line

ANSWER_SECONDS = 5  # within which a cluster must answer


@contextmanager
def ray_cluster(
    n: int | Literal["auto"], *, cpus: int, gpus: float, address: str | None, environment: dict[str, str]
) -> Iterator[tuple[int, Callable[[], "RayProcess"]]]:
    """Connect to a Ray cluster; yield the number of actors that it has room for, and a function that starts one.

    Args:
        n: number of actors, or "auto": as many as the nodes have room for.
        cpus: per actor.
        gpus: per actor.
        address: host:port of the head; None starts a cluster of one node here.
        environment: variables to set for each actor's process.

    Raises:
        DarkroomError: no cluster answers at the address, or it has no room.
    """
    import ray

    _connect(address, cpus=None if n == "auto" else n * cpus)
    try:
        actor = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment},
        )(_Actor)
        yield _room(n, cpus=cpus, gpus=gpus, where=address or "this machine"), lambda: RayProcess(actor.remote())
    finally:
        ray.shutdown()


class RayProcess:
    """The process of an actor, with the methods of a LocalProcess."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, function: Callable[[bytes], bytes], payload: bytes) -> "Future[bytes]":
        future: Future[bytes] = self._actor.call.remote(function, payload).future()
        return future

    def stop(self) -> None:
        import ray

        ray.kill(self._actor)

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
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DarkroomError(f"cannot use the Ray cluster at {address}: {first_line(error)}") from error
    finally:  # Ray sets a handler of its own
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _room(n: int | Literal["auto"], *, cpus: int, gpus: float, where: str) -> int:
    """Return n if the nodes of the cluster have room for that many actors; for "auto", how many they have room for."""
    import ray

    each = {"CPU": cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(node.get(kind, 0) / need) for kind, need in each.items() if need) for node in nodes)
    least = 1 if n == "auto" else n
    if room < least:
        raise DarkroomError(
            f"the Ray cluster at {where} has room for {room} workers of {cpus} CPUs and {gpus} GPUs each, not "
            f"{least}; use fewer or smaller workers, or start more nodes first"
        )
    return room if n == "auto" else n
