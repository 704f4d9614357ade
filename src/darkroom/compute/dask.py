"""Processes that run tasks on a Dask cluster: one that is there, or one started on this machine."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, InvalidStateError
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal, Self

from darkroom.compute.local import ANSWER_SECONDS
from darkroom.errors import DarkroomError
from darkroom.project.text import first_line

WORKER_SECONDS = 30  # within which a cluster must start a worker in place of one that was ended

_EVENTS = "all"  # Dask's topic of what happens to any worker
_one_task = threading.Lock()  # a worker may have several threads


class DaskCluster:
    """Workers of a Dask cluster, one for each place.

    Dask runs a task again when its worker died; this does not. A task is for one process, known by the id that Dask
    gives it, and another refuses it; and as soon as the scheduler removes a worker, its tasks have failed here.
    """

    def __init__(self, client: Any, n: int | Literal["auto"], *, gpus: float) -> None:
        self._opened = ExitStack()  # what close() closes
        self._client = client
        self._gpus = gpus
        self._held: dict[str, DaskProcess] = {}
        self._dead: set[str] = set()  # ids
        client.subscribe_topic(_EVENTS, self._on_event)
        least = 1 if n == "auto" else n
        deadline = time.monotonic() + ANSWER_SECONDS
        while (room := len(self._addresses())) < least and time.monotonic() < deadline:
            time.sleep(0.1)  # a worker may be about to come back after its end
        if room < least:
            of_gpus = f" with {gpus} of the resource GPU" if gpus else ""
            raise DarkroomError(
                f"the Dask cluster at {client.scheduler.address} has {room} workers{of_gpus}, not {least}; ask for "
                "fewer, or start more first"
            )
        self.n = room if n == "auto" else n

    @classmethod
    def at(cls, address: str, *, n: int | Literal["auto"], gpus: float) -> Self:
        """Return the cluster of a scheduler.

        Raises:
            DarkroomError: nothing answers there, or it has too few workers.
        """
        import distributed

        with ExitStack() as stack:
            stack.enter_context(_settings({}))
            try:
                client = distributed.Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
            except (OSError, ValueError) as error:
                raise DarkroomError(f"no Dask scheduler answers at {address}: {first_line(error)}") from error
            stack.callback(_disconnect, client)
            cluster = cls(client, n, gpus=gpus)
            cluster._opened = stack.pop_all()
            return cluster

    @classmethod
    def here(cls, environments: Sequence[dict[str, str]]) -> Self:
        """Return a new cluster of processes of this machine, with the environment of each."""
        import distributed

        with ExitStack() as stack:
            stack.enter_context(_settings(environments[0]))
            workers = {
                place: {"cls": distributed.Nanny, "options": _worker_options(environment)}
                for place, environment in enumerate(environments)
            }
            # Its HTTP server is there without the dashboard too, and another Dask may have the usual port: 0 is free.
            options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
            scheduler = {"cls": distributed.Scheduler, "options": options}
            made = distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL)
            stack.enter_context(made)
            client = distributed.Client(made, set_as_default=False)
            stack.callback(_disconnect, client)
            cluster = cls(client, len(environments), gpus=0.0)
            cluster._opened = stack.pop_all()
            return cluster

    def start(self, place: int) -> "DaskProcess":
        deadline = time.monotonic() + WORKER_SECONDS
        while time.monotonic() < deadline:
            for address in self._addresses():
                if address not in self._held and (process := self._hold(address)):
                    return process
            time.sleep(0.05)
        raise DarkroomError(
            f"the Dask cluster at {self._client.scheduler.address} has no free worker for place {place} of {self.n}; "
            "it must start its workers again when they end, as `dask worker --nanny` does"
        )

    def close(self) -> None:
        self._opened.close()

    def _addresses(self) -> list[str]:
        workers = self._client.scheduler_info()["workers"]
        return [address for address, worker in workers.items() if worker["resources"].get("GPU", 0) >= self._gpus]

    def _hold(self, address: str) -> "DaskProcess | None":
        """Return the process at an address, unless it is about to leave or has left."""
        found = self._client.run(_id_of_worker, workers=[address], on_error="ignore")
        if address not in found or found[address] in self._dead:
            return None
        process = DaskProcess(self._client, address, found[address])
        self._held[address] = process
        if address not in self._addresses():  # it left before _on_event could know that it is held
            self._lose(address)
            return None
        return process

    def _on_event(self, event: tuple[float, Any]) -> None:
        _, message = event
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            self._lose(message["worker"])

    def _lose(self, address: str) -> None:
        if process := self._held.pop(address, None):
            self._dead.add(process.id)
            process.lose()


class DaskProcess:
    """The process of a Dask worker."""

    def __init__(self, client: Any, address: str, id_: str) -> None:
        self.id = id_
        self._client = client
        self._address = address
        self._lock = threading.Lock()
        self._answers: dict[Future[bytes], Any] = {}
        self._lost = False

    def call(self, function: Callable[[bytes], bytes], payload: bytes) -> "Future[bytes]":
        answer: Future[bytes] = Future()
        task = self._client.submit(
            _only_there,
            self.id,
            function,
            payload,
            key=f"darkroom-{uuid.uuid4()}",
            workers=[self._address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        with self._lock:
            if self._lost:
                raise BrokenExecutor(self._has_left())
            self._answers[answer] = task
        task.add_done_callback(partial(self._finish, answer))
        return answer

    def lose(self) -> None:
        """Let all tasks fail."""
        with self._lock:
            self._lost = True
            answers, self._answers = self._answers, {}
        for answer, task in answers.items():
            task.release()
            with suppress(InvalidStateError):
                answer.set_exception(BrokenExecutor(self._has_left()))

    def stop(self) -> None:
        if not self._lost:
            # restart_workers() would wait for the task; where a worker has a nanny, that starts a new one now, too.
            self._client.run(os._exit, 1, workers=[self._address], on_error="ignore")
        self.lose()

    def leave(self) -> None:
        """Do nothing: the cluster ends its workers itself."""

    def cause(self, error: BaseException) -> str:
        return first_line(error) if isinstance(error, BrokenExecutor) else self._has_left()

    def _has_left(self) -> str:
        return f"the Dask worker at {self._address} has left"

    def _finish(self, answer: "Future[bytes]", task: Any) -> None:
        with self._lock:
            if self._answers.pop(answer, None) is None:
                return
        try:
            result = task.result()
        except BaseException as error:
            answer.set_exception(error)
        else:
            answer.set_result(result)


def _disconnect(client: Any) -> None:
    if client.status == "running":  # the scheduler would otherwise complain that the client left as a subscriber
        client.unsubscribe_topic(_EVENTS)
    client.close()


def _id_of_worker(dask_worker: Any) -> str:
    return str(dask_worker.id)


def _only_there(worker: str, function: Callable[[bytes], bytes], payload: bytes) -> bytes:
    """Return function(payload) in the process of one Dask worker."""
    import distributed

    if distributed.get_worker().id != worker:
        raise BrokenExecutor("the Dask worker that had the task was replaced by another")
    with _one_task:
        return function(payload)


@contextmanager
def _settings(environment: dict[str, str]) -> Iterator[None]:
    """Let Dask fail a task when its worker dies, take large tasks silently, and start processes in an environment.

    It starts a process by setting the variables in this one, where they are removed again at the end.
    """
    import dask

    added = {*environment, "PYTHONHASHSEED"} - set(os.environ)
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.admin.large-graph-warning-threshold": "1TB",
        "distributed.nanny.pre-spawn-environ": environment,
    }
    try:
        with dask.config.set(settings):
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _worker_options(environment: dict[str, str]) -> dict[str, Any]:
    """Return the options of the Nanny of one worker with one thread."""
    return {
        "nthreads": 1,
        "host": "127.0.0.1",
        "memory_limit": None,  # a worker that has too much is replaced by who gives it tasks
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        "env": environment,
    }
