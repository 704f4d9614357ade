"""Map a function over many items in this process, in threads, in processes or on a cluster, with the same results.

It submits to an executor itself because the generator of joblib.Parallel works ahead however slowly its results are
consumed, so that a slow disk would fill the memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, TypeVar

from darkroom.compute.local import process_pool, thread_limits
from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.deployable.machine import usable_cores
from darkroom.errors import DarkroomError, ParamsError

BACKENDS = ("loky", "threading", "ray")
# Running or queued: enough that no worker starves while the consumer writes, few enough to bound the memory.
ITEMS_PER_WORKER = 3

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Submit = Callable[..., "Future[Any]"]  # takes a function and an item


def stream(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    backend: str,
    workers: int | str,
    cluster: str | None = None,
) -> Iterator[ResultT]:
    """Yield function(item) for every item, in the order of the items.

    At most `ITEMS_PER_WORKER * workers` items are running or queued. Items are read in the caller's thread, only as
    fast as results are consumed, and errors while reading them are raised here, like errors of the function. Passing an
    item to a worker costs about 0.5 ms, so each should take longer. On a cluster every item and every result passes
    through this process and its network: a cluster pays off only for work that takes longer than the round trip (10 ms
    for 1 MB of image files at 1 Gbit/s).

    Args:
        function: must be picklable except for threads (defined in a module, or a partial of such a function); files
            that it names must be on a disk that every worker can read.
        backend: "loky" (processes), "threading" (suits functions that mostly run outside the GIL) or "ray".
        workers: their number, or "auto" for every core that this process may use, or every CPU of the cluster; 1 means
            this process, except on a cluster.
        cluster: the address of a Ray cluster, see Workers; None starts one on this machine.

    Raises:
        ParamsError: backend or workers is not one of these, or the backend's package is not installed.
        DarkroomError: a worker process died, or the cluster does not answer or has no room.
    """
    n_workers = n_workers_of(workers)
    if backend not in BACKENDS:
        raise ParamsError(f"compute.backend is {backend!r}; expected {' or '.join(BACKENDS)}")
    if backend == "ray":
        places = Workers("auto" if workers == "auto" else n_workers, backend=backend, address=cluster)
        return _stream(function, iter(items), _spread(places))
    if n_workers == 1:
        return map(function, items)
    return _stream(function, iter(items), _threads(n_workers) if backend == "threading" else _processes(n_workers))


def n_workers_of(workers: int | str) -> int:
    """Return the number of workers: "auto" counts the cores that affinity and container limits leave to this process.

    Raises:
        ParamsError: neither "auto" nor a whole number of at least 1.
    """
    if workers == "auto":
        return usable_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ParamsError(f"compute.workers is {workers!r}; expected auto or an integer of at least 1")
    return workers


def _stream(
    function: Callable[[ItemT], ResultT],
    items: Iterator[ItemT],
    opened: AbstractContextManager[tuple[Submit, int]],
) -> Iterator[ResultT]:
    pending: deque[Future[ResultT]] = deque()
    with opened as (submit, n_workers):
        try:
            while True:
                for item in islice(items, ITEMS_PER_WORKER * n_workers - len(pending)):
                    pending.append(submit(function, item))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _threads(n_workers: int) -> Iterator[tuple[Submit, int]]:
    with ThreadPoolExecutor(n_workers, thread_name_prefix="darkroom") as pool:
        yield pool.submit, n_workers


@contextmanager
def _processes(n_workers: int) -> Iterator[tuple[Submit, int]]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    pool = process_pool(n_workers, thread_limits(1))
    try:
        yield pool.submit, n_workers
    except TerminatedWorkerError as error:
        raise DarkroomError(
            "a worker process was killed, perhaps because memory ran out; lower compute.workers and run again"
        ) from error
    finally:
        pool.shutdown(wait=True)


@contextmanager
def _spread(places: Workers) -> Iterator[tuple[Submit, int]]:
    """Submit to the place with the fewest items."""
    with places:
        waiting: list[list[Future[Any]]] = [[] for _ in range(places.n)]

        def submit(function: Callable[[Any], Any], item: Any) -> "Future[Any]":
            for place, futures in enumerate(waiting):
                waiting[place] = [future for future in futures if not future.done()]
            place = min(range(places.n), key=lambda place: len(waiting[place]))
            future = places.submit(place, function, item)
            waiting[place].append(future)
            return future

        try:
            yield submit, places.n
        except WorkerDiedError as error:
            raise DarkroomError(f"{error}; if memory ran out there, lower compute.workers and run again") from error
