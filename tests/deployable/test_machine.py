import os

import pytest

from darkroom.deployable import machine
from darkroom.deployable.machine import usable_cores, usable_memory

GB = 1 << 30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return a function that says which control groups this process is in, and what their files hold."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(machine, "_physical_memory", lambda: 64 * GB)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for path, content in files.items():
            file = tmp_path / "cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n")

    return write


SERVICE = "0::/system.slice/darkroom.service\n"
V1 = "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("", {}, 16),
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000"}, 16),
        ("0::/\n", {"cpu.max": "400000"}, 16),
        (SERVICE, {"system.slice/darkroom.service/cpu.max": "300000 100000"}, 3),
        (SERVICE, {"system.slice/darkroom.service/cpu.max": "max 1", "system.slice/cpu.max": "400000 100000"}, 4),
        ("0::/../../pod\n", {"cpu.max": "200000 100000"}, 2),
        (V1, {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "-1", "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000"}, 16),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_a_quota_of_processor_time_bounds_the_cores(groups, own, files, cores):
    groups(own, **files)
    assert usable_cores() == cores


@pytest.mark.parametrize(("chosen", "cores"), [("4", 4), ("99", 16), ("0", 1), ("many", 16), ("", 16)])
def test_a_variable_lowers_the_number_of_cores(groups, monkeypatch, chosen, cores):
    groups("")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", chosen)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("", {}, 64 * GB),
        ("0::/\n", {"memory.max": "max"}, 64 * GB),
        ("0::/\n", {"memory.max": 2 * GB}, 2 * GB),
        ("0::/\n", {"memory.max": 2 * GB, "memory.high": GB}, GB),
        (SERVICE, {"system.slice/memory.max": 8 * GB}, 8 * GB),
        (V1, {"memory/docker/a/memory.limit_in_bytes": 9223372036854771712}, 64 * GB),
        (V1, {"memory/memory.limit_in_bytes": 3 * GB}, 3 * GB),
    ],
)
def test_a_limit_of_memory_bounds_the_bytes(groups, own, files, expected):
    groups(own, **files)
    assert usable_memory() == expected


def test_this_machine_has_cores_and_memory():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert (usable_memory() or 0) > 1 << 28
