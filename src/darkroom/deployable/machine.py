"""The cores and memory that this process may use: containers and services of systemd may be limited.

Travels beside package.py inside every registered model and imports nothing of darkroom.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1, by affinity and quotas of control groups.

    LOKY_MAX_CPU_COUNT lowers it further.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _own_groups("cpu"):
        quota, period, *_ = [*(_words(folder / "cpu.max") or _cfs(folder)), "", ""]
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, math.ceil(int(quota) / int(period)))
    chosen = os.environ.get("LOKY_MAX_CPU_COUNT", "")
    return max(1, min(cores, int(chosen)) if chosen.isdecimal() else cores)


def usable_memory() -> int | None:
    """Return the bytes that this process and its children may use together, None if unknown."""
    found = [_physical_memory()]
    for folder in _own_groups("memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            found += [int(word) for word in _words(folder / name)[:1] if word.isdecimal()]
    return min((n_bytes for n_bytes in found if n_bytes), default=None)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _own_groups(controller: str) -> Iterator[Path]:
    """Yield the directories of this process's control groups and their parents, as far as visible."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # A container sees its own group as the root, and may be told a path that is the host's.
        root = _GROUPS / controllers if controllers else _GROUPS
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from (root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1))


def _cfs(folder: Path) -> list[str]:
    return _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
