import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from darkroom.compute.local import gpu_of, thread_limits, visible_gpus
from darkroom.compute.workers import Workers
from darkroom.deployable.machine import usable_cores

THREADS = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
THREADS |= {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"}
# A process of its own that gives two workers a task each, and writes their process ids when both are at work.
PARENT = """
import os, sys, time
from darkroom.compute.workers import Workers

def work(file):
    open(file, "w").write(str(os.getpid()))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sum(range(10_000))

if __name__ == "__main__":
    with Workers(2, backend="loky") as workers:
        for place in range(2):
            workers.submit(place, work, f"{sys.argv[1]}/{place}")
        time.sleep(60)
"""


@pytest.fixture
def no_limits(monkeypatch):
    for name in (*THREADS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def fake_nvidia_smi(folder: Path, gpus: int) -> None:
    lines = "".join(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i})\n" for i in range(gpus))
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && printf '{lines}'\n")
    program.chmod(0o755)


@pytest.mark.parametrize("died", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(died, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script, tmp_path])
    try:
        deadline = time.monotonic() + 30
        files = [tmp_path / str(place) for place in range(2)]
        while not all(file.is_file() and file.read_text() for file in files):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert {int(file.read_text()) for file in files} <= {process.pid for process in family}
    finally:
        parent.send_signal(died)
        parent.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == [], "loky's own helper process included"


def test_a_process_gets_threads_for_its_cores_unless_set(no_limits, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    with Workers(1, backend="loky", cpus=3) as workers:
        environment = workers.submit(0, dict, os.environ).result()
        inside = workers.submit(0, thread_limits, 5).result()
    assert {name: inside[name] for name in THREADS} == dict.fromkeys(THREADS, "3") | {"MKL_NUM_THREADS": "7"}
    assert "OMP_NUM_THREADS" not in environment, "this process is left alone"


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_processes_share_the_cores_of_the_machine(n, no_limits):
    with Workers(n, backend="loky") as workers:
        assert workers.n == n
        inside = workers.submit(n - 1, thread_limits, 99).result()
    assert set(inside.values()) == {str(max(1, usable_cores() // n))}


def test_auto_is_a_place_for_every_so_many_cores():
    for cpus in (1, 2, 1000):
        with Workers("auto", backend="loky", cpus=cpus) as workers:
            assert workers.n == max(1, usable_cores() // cpus)


def test_several_gpus_are_dealt_out_and_one_is_shared(no_limits, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fake_nvidia_smi(tmp_path, 3)
    with Workers(4, backend="loky") as workers:
        seen = [workers.submit(place, os.getenv, "CUDA_VISIBLE_DEVICES").result() for place in (0, 2, 3)]
    assert seen == ["0", "2", "0"]
    fake_nvidia_smi(tmp_path, 1)
    assert gpu_of(1) == {}
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert gpu_of(1) == {}


def test_the_gpus_that_the_user_chose_are_dealt_out(no_limits, monkeypatch):
    for chosen, names in {"5, 7": ["5", "7", "5"], "MIG-a,MIG-b": ["MIG-a", "MIG-b", "MIG-a"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert [gpu_of(place)["CUDA_VISIBLE_DEVICES"] for place in range(3)] == names
    for chosen, names in {"": [], "4": ["4"], "-1": [], "2,-1,3": ["2"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert visible_gpus() == names
        assert gpu_of(1) == {}
