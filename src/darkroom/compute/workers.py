"""Long-lived worker processes for long tasks, on this machine or on a cluster."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import cloudpickle

from darkroom.compute.local import LocalProcess, gpu_of, thread_limits
from darkroom.compute.ray import RayProcess, ray_cluster
from darkroom.deployable.machine import usable_cores
from darkroom.errors import DarkroomError, ParamsError

ResultT = TypeVar("ResultT")
Process = LocalProcess | RayProcess


class WorkerDiedError(DarkroomError):
    """A worker process ended before its task did: killed, out of memory, its machine lost, or replaced."""


@dataclass(eq=False)
class _Worker:
    process: Process
    futures: "set[Future[Any]]" = field(default_factory=set)
    gone: bool = False
    stopped: bool = False  # by this process


class Workers:
    """n places for tasks, each with a process that runs one task at a time and is reused.

    A task finds the module globals that an earlier task of its place has set. The first task of a place starts its
    process. Leaving the `with` block stops all processes, even during a task; if this process is killed they end by
    themselves, within about a second, or a few seconds on a cluster. They ignore Ctrl-C, which this process handles.
    Only one thread may use the object.

    Args:
        n: number of places, or "auto": this machine's cores divided by cpus, or as many as the cluster has room for.
        backend: "loky" (processes of this machine) or "ray".
        cpus: cores per place; libraries start as many threads, unless the environment says otherwise. None: an equal
            share of this machine with loky, 1 with Ray.
        gpus: Ray's share of a GPU per place, such as 0.5. Ignored with loky, where place i uses GPU i modulo their
            number.
        address: host:port of the head of a running Ray cluster; None starts one on this machine. Its machines must have
            darkroom and ray installed.

    Raises:
        ParamsError: backend or a number is not one of these, or ray is not installed.
        DarkroomError: by `with`: the cluster does not answer within 5 s, or has no room for n places.
    """

    def __init__(
        self,
        n: int | Literal["auto"],
        *,
        backend: str,
        cpus: int | None = None,
        gpus: float = 0.0,
        address: str | None = None,
    ) -> None:
        if backend not in ("loky", "ray"):
            raise ParamsError(f"compute.backend is {backend!r}; expected loky or ray")
        if n != "auto" and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise ParamsError(f"workers is {n!r}; expected auto or an integer of at least 1")
        if cpus is not None and cpus < 1:
            raise ParamsError(f"cpus of a worker is {cpus!r}; expected an integer of at least 1")
        if gpus < 0:
            raise ParamsError(f"gpus of a worker is {gpus!r}; expected a number of at least 0")
        if backend == "ray" and find_spec("ray") is None:
            raise ParamsError("compute.backend ray needs the package ray: .venv/bin/uv pip install -e '.[ray]'")
        self._opening = _open(n, backend=backend, cpus=cpus, gpus=gpus, address=address)
        self._opened = ExitStack()  # closed by __exit__
        self._places: tuple[int, Callable[[int], Process]] | None = None
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> Self:
        self._places = self._opened.enter_context(self._opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._places = None
        with self._opened, ThreadPoolExecutor(thread_name_prefix="darkroom") as pool:
            list(pool.map(self.replace, list(self._workers)))

    @property
    def n(self) -> int:
        """The number of places."""
        return self._running()[0]

    def submit(self, place: int, function: Callable[..., ResultT], *args: Any) -> "Future[ResultT]":
        """Return the future of function(*args), run by the process of a place in [0, n).

        It fails with the task's exception, of the same type and message, or with WorkerDiedError; no task is run twice.
        A second task waits for the first. The future cannot be cancelled: see replace().

        Args:
            function: picklable, or defined in the main module.

        Raises:
            DarkroomError: no process can be started there.
        """
        payload = cloudpickle.dumps((function, args))
        worker = self._worker(place)
        try:
            answer = worker.process.call(_run, payload)
        except BrokenExecutor:  # it died while idle
            worker.gone = True
            worker = self._worker(place)
            answer = worker.process.call(_run, payload)
        future: Future[ResultT] = Future()
        future.set_running_or_notify_cancel()
        worker.futures.add(future)
        answer.add_done_callback(partial(_settle, place, worker, future))
        return future

    def replace(self, place: int) -> None:
        """Stop the process of a place, even during a task; the next task there starts a new one.

        Its futures are done when this returns.
        """
        if worker := self._workers.pop(place, None):
            _stop(place, worker)

    def _running(self) -> tuple[int, Callable[[int], Process]]:
        """Return the number of places, and the function that starts the process of one."""
        if self._places is None:
            raise RuntimeError("Workers used outside their `with` block")
        return self._places

    def _worker(self, place: int) -> _Worker:
        """Return the living worker of a place, a new one if there is none."""
        n, start = self._running()
        if not 0 <= place < n:
            raise IndexError(f"place {place} of {n}")
        if place in self._workers and self._workers[place].gone:
            self.replace(place)
        if place not in self._workers:
            self._workers[place] = _Worker(start(place))
        return self._workers[place]


@contextmanager
def _open(
    n: int | Literal["auto"], *, backend: str, cpus: int | None, gpus: float, address: str | None
) -> Iterator[tuple[int, Callable[[int], Process]]]:
    if backend == "ray":
        environment = thread_limits(cpus or 1)
        with ray_cluster(n, cpus=cpus or 1, gpus=gpus, address=address, environment=environment) as (room, start):
            yield room, lambda _place: start()
    else:
        n_here = max(1, usable_cores() // (cpus or 1)) if n == "auto" else n
        environment = thread_limits(cpus or max(1, usable_cores() // n_here))
        yield n_here, lambda place: LocalProcess(environment | gpu_of(place))


def _stop(place: int, worker: _Worker) -> None:
    worker.stopped = True
    worker.process.stop()
    for future in list(worker.futures):
        with suppress(InvalidStateError):  # _settle() was first
            future.set_exception(_died(place, worker, None))


def _settle(place: int, worker: _Worker, future: "Future[Any]", answer: "Future[bytes]") -> None:
    """Pass on a process's answer; called in a thread of the backend, which must not block."""
    try:
        result = _opened(answer.result())
    except BaseException as error:  # not raised by the task, whose errors are part of the answer
        worker.gone = True
        result = _Failure(_died(place, worker, error))
    worker.futures.discard(future)
    with suppress(InvalidStateError):  # _stop() was first
        if isinstance(result, _Failure):
            future.set_exception(result.error)
        else:
            future.set_result(result)


def _died(place: int, worker: _Worker, error: BaseException | None) -> WorkerDiedError:
    if error is None or worker.stopped:
        return WorkerDiedError(f"worker {place} was stopped during its task")
    return WorkerDiedError(f"worker {place} died during its task: {worker.process.cause(error)}")


class _InWorker(Exception):  # noqa: N818 - shown as the cause of a task's error, never raised
    """The traceback of a task."""


@dataclass(frozen=True)
class _Failure:
    """The error of a task."""

    error: BaseException
    where: str = ""


@dataclass(frozen=True)
class _Remains:
    """The error of a task that cannot be pickled, or not without changing its message."""

    kind: type[Exception]
    message: str
    where: str


def _run(payload: bytes) -> bytes:
    """Run a pickled (function, args) and return the pickled result, _Failure or _Remains.

    Errors are pickled here and not by the backend, because an error that cannot be unpickled breaks loky's pool, and
    Ray wraps errors in its own classes.
    """
    try:
        function, args = cloudpickle.loads(payload)
        return bytes(cloudpickle.dumps(function(*args)))
    except Exception as error:
        return _pickled(error, traceback.format_exc())


def _pickled(error: Exception, where: str) -> bytes:
    with suppress(Exception):  # __reduce__, __getstate__ and __init__ of any class may raise anything
        pickled = cloudpickle.dumps(_Failure(error, where))
        if str(cloudpickle.loads(pickled).error) == str(error):
            return bytes(pickled)
    try:
        return bytes(cloudpickle.dumps(_Remains(type(error), str(error), where)))
    except Exception:
        return bytes(cloudpickle.dumps(_Remains(DarkroomError, f"{type(error).__name__}: {error}", where)))


def _opened(outcome: bytes) -> Any:
    """Return the result of a task, or its _Failure with the traceback as the cause of the error."""
    try:
        opened = cloudpickle.loads(outcome)
    except Exception as error:  # for example of a class that cannot be imported here
        return _Failure(error)
    if isinstance(opened, _Remains):
        rebuilt = opened.kind.__new__(opened.kind, opened.message)  # __init__ may want other arguments
        rebuilt.args = (opened.message,)
        opened = _Failure(rebuilt, opened.where)
    if isinstance(opened, _Failure):
        opened.error.__cause__ = _InWorker(f"in the worker:\n{opened.where}")
    return opened
