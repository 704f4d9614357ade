"""One map over many items: in this process, in threads or in worker processes. Results never depend on which.

It submits to an executor itself because the generator of joblib.Parallel works ahead however slowly its results are
taken, so that a slow disk would fill the memory.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from darkroom.errors import DarkroomError, ParamsError

BACKENDS = ("loky", "threading")
# In work or waiting: enough that no worker starves while the consumer writes, few enough to bound the memory.
ITEMS_PER_WORKER = 3

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def stream(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    backend: str,
    workers: int | str,
) -> Iterator[ResultT]:
    """Yield function(item) for every item, in the order of the items.

    At most `ITEMS_PER_WORKER * workers` items are in work or waiting: they are read only as fast as results are taken,
    in the caller's thread, so an error while reading them is raised here, like one of the function itself. To hand an
    item over costs about 0.5 ms: give items that are worth more.

    Args:
        function: for loky it must be picklable (defined in a module, or a partial of such a function).
        backend: "loky" (processes) or "threading"; threads suit functions that mostly run outside the GIL.
        workers: how many, or "auto" for every core that this process may use; 1 works in this process.

    Raises:
        ParamsError: backend or workers is not one of these.
        DarkroomError: a worker process died.
    """
    n_workers = n_workers_of(workers)
    if backend not in BACKENDS:
        raise ParamsError(f"compute.backend is {backend!r}; expected {' or '.join(BACKENDS)}")
    if n_workers == 1:
        return map(function, items)
    return _stream(function, iter(items), backend, n_workers)


def n_workers_of(workers: int | str) -> int:
    """Return the number of workers: "auto" counts the cores that affinity and container limits leave to this process.

    Raises:
        ParamsError: neither "auto" nor a whole number of at least 1.
    """
    if workers == "auto":
        from joblib import cpu_count

        return int(cpu_count())
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ParamsError(f"compute.workers is {workers!r}; expected auto or a whole number of at least 1")
    return workers


def _stream(
    function: Callable[[ItemT], ResultT], items: Iterator[ItemT], backend: str, n_workers: int
) -> Iterator[ResultT]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    pending: deque[Future[ResultT]] = deque()
    executor = _executor(backend, n_workers)
    try:
        while True:
            for item in islice(items, ITEMS_PER_WORKER * n_workers - len(pending)):
                pending.append(executor.submit(function, item))
            if not pending:
                return
            yield pending.popleft().result()
    except TerminatedWorkerError as error:
        raise DarkroomError(
            "a worker process was killed, perhaps because memory ran out; lower compute.workers and run again"
        ) from error
    finally:
        for future in pending:
            future.cancel()
        executor.shutdown(wait=True)


def _executor(backend: str, n_workers: int) -> Executor:
    if backend == "threading":
        return ThreadPoolExecutor(n_workers, thread_name_prefix="darkroom")
    from joblib.externals.loky import ProcessPoolExecutor

    # BLAS and OpenMP of each worker would otherwise start a thread per core, and all of them fight for the same cores.
    one = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    executor: Executor = ProcessPoolExecutor(n_workers, env=one)
    return executor
