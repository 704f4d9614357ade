"""Processes that run tasks on this machine."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from itertools import takewhile
from typing import Any

# TensorFlow reads its variables when it starts to compute; numpy's libraries read theirs when they are loaded.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
_PARENT_SECONDS = 0.25  # between two checks that the parent process is alive


class LocalProcess:
    """A process of this machine, started by its first call, in a pool of its own, so that its death breaks no other."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._pool = process_pool(1, environment)
        self._newest: Future[bytes] | None = None

    def call(self, function: Callable[[bytes], bytes], payload: bytes) -> "Future[bytes]":
        """Return the future of function(payload), which fails if the process ends first.

        Raises:
            BrokenExecutor: the process had ended already, so nothing was run.
        """
        self._newest = self._pool.submit(function, payload)
        return self._newest

    def stop(self) -> None:
        """Kill the process, even during a call."""
        from joblib.externals.loky.backend.utils import kill_process_tree

        # shutdown(kill_workers=True) alone makes the pool's thread fail if a call is pending (KeyError in loky 3.6);
        # once the process has died, the thread first fails the pending calls.
        for process in list(self._pool._processes.values()):
            kill_process_tree(process)
        if self._newest:
            wait([self._newest])
        self._pool.shutdown(wait=True, kill_workers=True)

    def cause(self, error: BaseException) -> str:
        """Return a short reason why the process ended, from the error of a future."""
        ended = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
        return f"it ended with {ended[1]}" if ended else " ".join(f"{type(error).__name__}: {error}".split())


def process_pool(n: int, environment: dict[str, str]) -> Any:
    """Return a ProcessPoolExecutor of loky with n processes that end when this one does, however it ends."""
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(n, timeout=None, env=environment, initializer=_settle_in, initargs=(os.getpid(),))


def thread_limits(cores: int) -> dict[str, str]:
    """Return the variables that make numerical libraries start this many threads; those already set are kept.

    Otherwise each process would start a thread per core of the machine, and all would compete for the same cores.
    """
    return {name: os.environ.get(name, str(cores)) for name in _THREADS}


def gpu_of(place: int) -> dict[str, str]:
    """Return the variables that restrict a process to the GPU of its place, or {} unless there are several GPUs."""
    gpus = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if len(gpus) > 1 else {}


def visible_gpus() -> list[str]:
    """Return CUDA's names of the GPUs that this process may use, without loading CUDA."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in chosen.split(",") if name.strip()]
        return list(takewhile(lambda name: not name.startswith("-"), names))  # CUDA ignores those from -1 on
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", listed, re.MULTILINE)


def _settle_in(parent: int) -> None:
    """Make a new loky process live until its parent stops it or ends."""
    from joblib.externals.loky import process_executor

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # loky ends a process that has grown by 300 MB since its first task, as it does when data are kept between tasks.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    threading.Thread(target=_end_with, args=(parent,), name="parent-watch", daemon=True).start()


def _end_with(parent: int) -> None:
    # Not PR_SET_PDEATHSIG: it already fires when the thread that started this process ends.
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)
