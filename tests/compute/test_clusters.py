"""On a Ray cluster of two nodes on this machine."""

import contextlib
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
from tests.pipelines.test_tune import Stage
from tests.support.project import ROOT
from tests.support.registered import write_version
from tests.support.training_stage import train_section

pytestmark = pytest.mark.heavy
KEPT: list[int] = []
PARENT = """
import os, sys, time
from darkroom.compute.workers import Workers

def work(file):
    open(file, "w").write(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    with Workers(1, backend="ray") as workers:
        workers.submit(0, work, sys.argv[1])
        time.sleep(60)
"""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes with one CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    # Loky hands its processes where modules are found here; Ray expects them to be installed there.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    monkeypatch.undo()
    yield cluster.address
    cluster.shutdown()


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


def check_places(workers: Workers, folder: Path) -> None:
    """Hold a cluster against what Workers promises of every backend."""
    first, other = workers.submit(0, remember, 1), workers.submit(1, remember, 2)
    assert first.result()[0] != other.result()[0]
    assert workers.submit(0, remember, 3).result() == (first.result()[0], [1, 3]), "the process lives on"
    error = workers.submit(0, fail, 5).exception()
    assert (type(error), str(error)) == (DataError, "image 5 is odd")

    killed = workers.submit(0, wait_in, folder / "killed")
    os.kill(pid_in(folder / "killed"), signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match=r"^worker 0 died during its task: [^\n]+$"):
        killed.result(timeout=20)
    assert workers.submit(1, remember, 4).result() == (other.result()[0], [2, 4]), "others go on"
    assert workers.submit(0, remember, 5).result()[1] == [5]

    stopped = workers.submit(0, wait_in, folder / "stopped")
    pid = pid_in(folder / "stopped")
    before = time.monotonic()
    workers.replace(0)
    assert time.monotonic() - before < 2
    with pytest.raises(WorkerDiedError, match=r"^worker 0 was stopped during its task$"):
        stopped.result(timeout=0)
    eventually(lambda: not psutil.pid_exists(pid), 2)
    assert workers.submit(0, remember, 6).result()[1] == [6]
    for name in ("killed", "stopped"):
        assert len((folder / name).read_text().split()) == 1, "no task runs twice"


def test_ray_runs_tasks_on_both_nodes_and_keeps_the_promises(ray_cluster, tmp_path):
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
        wanted = rf"has room for {room} workers of 1 CPUs and {gpus} GPUs each, not {asked}; use fewer"
        with pytest.raises(DarkroomError, match=wanted), Workers(asked, backend="ray", address=ray_cluster, gpus=gpus):
            pass
    with Workers("auto", backend="ray", address=ray_cluster) as workers:
        assert workers.n == 2


def test_batch_answers_on_a_ray_cluster_as_in_threads(ray_cluster, tmp_path):
    version = write_version(tmp_path / "version")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        cv2.imwrite(str(pictures / f"{number}.png"), rng.integers(0, 256, (9, 9), np.uint8))
    (pictures / "broken.png").write_bytes(b"no picture")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    run.run(str(pictures), here, version=version)
    summary = run.run(
        str(pictures), there, version=version, options=run.Options(workers=2, backend="ray", cluster=ray_cluster)
    )
    assert (summary.images, summary.failed) == (41, 1)
    assert pq.read_table(there).equals(pq.read_table(here))


def test_trials_of_the_tune_stage_run_on_both_nodes(ray_cluster, tmp_path):
    stage = Stage(tmp_path)
    stage.params(train=train_section(backend="ray", cluster=ray_cluster), trials="2", workers="2", cpus="1")
    nodes: dict[str, int] = {}  # of each worker: the process that started it, which is Ray's own on a node
    with stage.start() as process:
        while process.poll() is None:
            for row in stage.study():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if row.worker is not None and row.worker not in nodes:
                        nodes[row.worker] = psutil.Process(int(row.worker.rpartition(":")[2])).ppid()
            time.sleep(0.1)
        assert process.returncode == 0, process.communicate()[0]
    assert {row.worker for row in stage.study()} == set(nodes)
    assert len(set(nodes.values())) == 2
    assert [trial["state"] for trial in stage.trials()] == ["complete"] * 2
    assert set(stage.runs().values()) == {"FINISHED"}


def leave_a_running_task(workers: Workers, folder: Path) -> None:
    with workers:
        busy = workers.submit(0, wait_in, folder / "busy")
        pid = pid_in(folder / "busy")
        left = time.monotonic()
    assert time.monotonic() - left < 5
    with pytest.raises(WorkerDiedError, match=r"^worker 0 was stopped during its task$"):
        busy.result(timeout=0)
    eventually(lambda: not psutil.pid_exists(pid), 2)


def test_a_silent_cluster_is_reported_within_seconds():
    before = time.monotonic()
    message = "no Ray cluster answers at 127.0.0.1:9: .*refused.*; start one with `ray start`"
    with pytest.raises(DarkroomError, match=rf"^{message}$"), Workers(1, backend="ray", address="127.0.0.1:9"):
        pass
    assert time.monotonic() - before < 7


def test_a_cluster_started_here_ends_when_its_starter_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script, tmp_path / "pid"], stderr=subprocess.DEVNULL)
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


def test_a_stream_over_a_cluster_keeps_order_bound_and_errors(ray_cluster):
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in (*range(10, 30), 5, *range(1000)):
            read.append(number)
            yield number

    results = stream(fail, items(), backend="ray", workers="auto", cluster=ray_cluster)
    assert [next(results) for _ in range(20)] == [number * number for number in range(10, 30)]
    assert len(read) <= 20 + 2 * 3
    with pytest.raises(DataError, match=r"^image 5 is odd$"):
        next(results)
    with pytest.raises(DarkroomError, match=r"died during its task: .*; if memory ran out there, lower compute"):
        list(stream(os._exit, [9, 9], backend="ray", workers=1, cluster=ray_cluster))
