"""On clusters of processes of this machine: two Ray nodes, a Dask scheduler with two workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from darkroom.batch import run
from darkroom.compute.stream import stream
from darkroom.compute.workers import WorkerDiedError, Workers
from darkroom.errors import DarkroomError, DataError
from tests.support.registered import write_version

pytestmark = pytest.mark.heavy
KEPT: list[int] = []
PARENT = """
import os, sys, time
from darkroom.compute.workers import Workers

def work(file):
    open(file, "w").write(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    with Workers(1, backend=sys.argv[1]) as workers:
        workers.submit(0, work, sys.argv[2])
        time.sleep(60)
"""


def remember(number: int) -> tuple[int, list[int]]:
    KEPT.append(number)
    return os.getpid(), KEPT


def wait_in(file: Path, seconds: float = 60) -> None:
    with file.open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    time.sleep(seconds)


def node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def fail(number: int) -> int:
    if number == 5:
        raise DataError(f"image {number} is odd")
    return number * number


def eventually(what: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pid_in(file: Path) -> int:
    eventually(lambda: file.is_file() and file.read_text().endswith("\n"))
    return int(file.read_text().split()[-1])


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[str]:
    """As somebody else would start it: Dask's own settings run a task three more times when its worker dies."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0", silence_logs=50) as cluster:
        yield cluster.scheduler_address


def check_places(workers: Workers, folder: Path) -> None:
    """Hold a cluster against what Workers promises of every backend."""
    first, other = workers.submit(0, remember, 1), workers.submit(1, remember, 2)
    assert first.result()[0] != other.result()[0]
    assert workers.submit(0, remember, 3).result() == (first.result()[0], [1, 3]), "the process lives on"
    error = workers.submit(0, fail, 5).exception()
    assert (type(error), str(error)) == (DataError, "image 5 is odd")

    killed = workers.submit(0, wait_in, folder / "killed")
    os.kill(pid_in(folder / "killed"), signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match=r"^worker 0 died before its task ended: [^\n]+$"):
        killed.result(timeout=20)
    assert workers.submit(1, remember, 4).result() == (other.result()[0], [2, 4]), "others go on"
    assert workers.submit(0, remember, 5).result()[1] == [5]

    stopped = workers.submit(0, wait_in, folder / "stopped")
    pid = pid_in(folder / "stopped")
    before = time.monotonic()
    workers.replace(0)
    assert time.monotonic() - before < 2
    with pytest.raises(WorkerDiedError, match=r"^worker 0 was stopped before its task ended$"):
        stopped.result(timeout=0)
    eventually(lambda: not psutil.pid_exists(pid), 2)
    assert workers.submit(0, remember, 6).result()[1] == [6]
    for name in ("killed", "stopped"):
        assert len((folder / name).read_text().split()) == 1, "no task runs twice"


def test_ray_runs_tasks_on_both_nodes_and_keeps_what_workers_promise(ray_cluster, tmp_path):
    def handler(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with Workers(2, backend="ray", address=ray_cluster) as workers:
            assert signal.getsignal(signal.SIGTERM) is handler, "Ray would have set its own"
            nodes = {workers.submit(place, node).result() for place in range(2)}
            assert len(nodes) == 2
            assert workers.submit(0, os.getenv, "TF_NUM_INTRAOP_THREADS").result() == "1"
            check_places(workers, tmp_path)
        leave_a_running_task(Workers(2, backend="ray", address=ray_cluster), tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_ray_cluster_without_room_says_so(ray_cluster):
    for asked, gpus, room in ((3, 0.0, 2), (1, 0.5, 0)):
        wanted = rf"has room for {room} workers of 1 CPUs and {gpus} GPUs each, not for {asked}; ask for fewer"
        with pytest.raises(DarkroomError, match=wanted), Workers(asked, backend="ray", address=ray_cluster, gpus=gpus):
            pass
    with Workers("auto", backend="ray", address=ray_cluster) as workers:
        assert workers.n == 2


def test_batch_answers_on_a_ray_cluster_as_in_threads_of_this_process(ray_cluster, tmp_path):
    version = write_version(tmp_path / "version")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        cv2.imwrite(str(pictures / f"{number}.png"), rng.integers(0, 256, (9, 9), np.uint8))
    (pictures / "broken.png").write_bytes(b"no picture")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    run.run(str(pictures), here, version=version)
    summary = run.run(str(pictures), there, version=version, workers=2, backend="ray", cluster=ray_cluster)
    assert (summary.images, summary.failed) == (41, 1)
    assert pq.read_table(there).equals(pq.read_table(here))


def leave_a_running_task(workers: Workers, folder: Path) -> None:
    with workers:
        busy = workers.submit(0, wait_in, folder / "busy")
        pid = pid_in(folder / "busy")
        left = time.monotonic()
    assert time.monotonic() - left < 5
    with pytest.raises(WorkerDiedError, match=r"^worker 0 was stopped before its task ended$"):
        busy.result(timeout=0)
    eventually(lambda: not psutil.pid_exists(pid), 2)


def test_a_dask_started_here_keeps_what_workers_promise(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "PYTHONHASHSEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with Workers(2, backend="dask", cpus=3) as workers:
        check_places(workers, tmp_path)
        for name, values in {"OMP_NUM_THREADS": ["3", "3"], "CUDA_VISIBLE_DEVICES": ["5", "7"]}.items():
            assert sorted(workers.submit(place, os.getenv, name).result() for place in range(2)) == values
    assert not {"OMP_NUM_THREADS", "PYTHONHASHSEED"} & set(os.environ), "this process is left alone"
    leave_a_running_task(Workers(1, backend="dask"), tmp_path)


def test_a_dask_that_was_there_keeps_what_workers_promise_and_lives_on(dask_cluster, tmp_path):
    with Workers(2, backend="dask", address=dask_cluster) as workers:
        check_places(workers, tmp_path)
        idle = {workers.submit(place, os.getpid).result() for place in range(2)}
    assert all(map(psutil.pid_exists, idle)), "idle workers are not ours to end"
    leave_a_running_task(Workers(2, backend="dask", address=dask_cluster), tmp_path)


def test_a_dask_worker_that_comes_back_at_its_old_address_does_not_run_the_task_again(tmp_path):
    import socket

    from distributed import LocalCluster

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, worker_port=port, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Workers(1, backend="dask", address=cluster.scheduler_address) as workers,
    ):
        task = workers.submit(0, wait_in, tmp_path / "task")
        os.kill(pid_in(tmp_path / "task"), signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match=rf"the Dask worker at tcp://127.0.0.1:{port} has left"):
            task.result(timeout=20)
        assert workers.submit(0, remember, 1).result(timeout=30)[1] == [1]
        assert len((tmp_path / "task").read_text().split()) == 1


def test_a_dask_cluster_without_room_says_so(dask_cluster, monkeypatch):
    monkeypatch.setattr("darkroom.compute.dask.ANSWER_SECONDS", 0.1)
    with (
        pytest.raises(DarkroomError, match=r"has 2 workers, not 3; ask for fewer"),
        Workers(3, backend="dask", address=dask_cluster),
    ):
        pass
    with (
        pytest.raises(DarkroomError, match=r"has 0 workers with 1.0 of the resource GPU, not 1; ask for fewer"),
        Workers(1, backend="dask", address=dask_cluster, gpus=1.0),
    ):
        pass
    monkeypatch.undo()
    with Workers("auto", backend="dask", address=dask_cluster) as workers:
        assert workers.n == 2


@pytest.mark.parametrize(
    ("backend", "address", "message"),
    [
        ("ray", "127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9: .*refused.*; start one with `ray start`"),
        ("dask", "tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9: .*"),
        ("dask", "http://127.0.0.1:9", "no Dask scheduler answers at http://127.0.0.1:9: .*"),
    ],
)
def test_a_cluster_that_does_not_answer_is_said_within_seconds(backend, address, message):
    before = time.monotonic()
    with pytest.raises(DarkroomError, match=rf"^{message}$"), Workers(1, backend=backend, address=address):
        pass
    assert time.monotonic() - before < 7


@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_cluster_started_here_ends_when_its_starter_is_killed(backend, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script, backend, tmp_path / "pid"], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
        family = psutil.Process(parent.pid).children(recursive=True)
        worker = psutil.Process(int((tmp_path / "pid").read_text()))
        assert worker in family
    finally:
        parent.kill()
        parent.wait()
    worker.wait(timeout=10)
    slow = {"ray::RuntimeEnvAgent", "ray::DashboardAgent"}  # they end after a minute of trying to tell Ray's head
    left = [process for process in family if process.is_running() and process.name() not in slow]
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in family:
        if process.is_running():
            process.kill()
    assert alive == []


@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_stream_over_a_cluster_keeps_the_order_the_bound_and_the_errors(backend, request):
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in (*range(10, 30), 5, *range(1000)):
            read.append(number)
            yield number

    cluster = request.getfixturevalue(f"{backend}_cluster")
    results = stream(fail, items(), backend=backend, workers="auto", cluster=cluster)
    assert [next(results) for _ in range(20)] == [number * number for number in range(10, 30)]
    assert len(read) <= 20 + 2 * 3
    with pytest.raises(DataError, match=r"^image 5 is odd$"):
        next(results)
    with pytest.raises(DarkroomError, match=r"died before its task ended: .*; if memory ran out there, lower compute"):
        list(stream(os._exit, [9, 9], backend=backend, workers=1, cluster=cluster))
