"""`darkroom serve` under load during promotions, a rollback, lost workers, and decompression bombs.

    python -m benchmarks.soak --minutes 10 --save
    python -m benchmarks.soak --minutes 0.5 --kills 2      # a trial run

32 connections send an image and wait for the answer, while another one sends 20 image files per second that are made to
exhaust a decoder (tests/support/image_files.py: a PNG that claims gigabytes, a JPEG of a thousand scans and the like).
Meanwhile the alias moves four times, for three promotions and a rollback, and `--kills` worker processes are killed
(SIGKILL), one after the other.

errors: answers of 500 and above and connections that ended without an answer, of both clients; `elsewhere` are those
    later than ERROR_SECONDS after a kill, which a lost worker does not explain.
memory_mb: memory of all the server's processes over time, with shared pages counted once; growth_mb is its last value
    minus that after a tenth of the time, when every worker has run.
"""

import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks import served
from benchmarks.clients.http_load import measure, request
from benchmarks.record import arguments, report
from tests.support.image_files import bombs

SIZE, CONNECTIONS = 28, 32
BOMB_PAUSE = 0.05  # seconds
ERROR_SECONDS = 2.0
TARGET = "no error elsewhere; every bomb refused; growth_mb near 0"


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=10, help="worker processes to kill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)
        os.environ["DVC_ROOT"] = folder
        served.register_versions(Path(folder), [SIZE])
        result = soak(minutes=options.minutes, n_kills=options.kills)
    packages = ["mlflow", "onnxruntime", "numpy", "opencv-python-headless"]
    report("soak", {**result, "target": TARGET}, packages=packages, save=options.save)


def soak(*, minutes: float, n_kills: int) -> dict[str, Any]:
    """Return errors, latencies and memory under load while the alias moves and workers are killed."""
    moves, seconds = promotions(f"of-{SIZE}"), 60 * minutes
    with served.darkroom(SIZE, "--poll-seconds", "1") as server:
        loads: dict[str, dict[str, Any]] = {}
        threads = [
            sending(loads, "images", server, served.images(SIZE), connections=CONNECTIONS, seconds=seconds),
            sending(loads, "bombs", server, list(bombs().values()), connections=1, seconds=seconds, pause=BOMB_PAUSE),
        ]
        events = [(seconds * (place + 1) / (len(moves) + 1), move) for place, move in enumerate(moves)]
        killed: list[float] = []
        # After a tenth of the time, when the memory is stable.
        events += [
            (seconds * (0.1 + 0.85 * place / n_kills), lambda: kill_worker(server, killed)) for place in range(n_kills)
        ]
        events.sort(key=lambda event: event[0])
        memory, versions = watched(server, threads, events, seconds=seconds)
        for thread in threads:
            thread.join()
    settled = next((megabytes for passed, megabytes in memory if passed >= seconds / 10), memory[-1][1])
    last = statistics.median(megabytes for _, megabytes in memory[-5:])
    return {
        "minutes": minutes,
        "connections": CONNECTIONS,
        "workers_killed": len(killed),
        **{name: {**load, "errors": summary(load["errors"], killed)} for name, load in sorted(loads.items())},
        "served_versions": versions,
        "growth_mb": round(last - settled, 1),
        "memory_mb": dict(memory[:: max(1, len(memory) // 20)]),
    }


def promotions(name: str) -> list[Callable[[], object]]:
    """Return three promotions and a rollback."""
    from darkroom.registry import aliases, versions
    from darkroom.tracking import store

    store.client()  # so that importing MLflow does not count as load
    first, second, third = sorted(versions.read(name).versions.values(), key=lambda version: int(version.version))
    return [
        lambda: aliases.promote(second, replacing=first.version, reasons=["soak"]),
        lambda: aliases.promote(third, replacing=second.version, reasons=["soak"]),
        lambda: aliases.promote(first, replacing=third.version, reasons=["soak"]),
        lambda: aliases.rollback(name, reason="soak"),
    ]


def sending(
    loads: dict[str, dict[str, Any]], name: str, server: served.Server, files: list[bytes], **plan: Any
) -> threading.Thread:
    """Start to send files to a server; return the thread, which puts its result into loads."""
    requests = [request("/v1/predict", file, "application/octet-stream") for file in files]

    def send() -> None:
        loads[name] = measure(server.port, requests, warm_up=0.0, **plan)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def watched(
    server: served.Server,
    threads: list[threading.Thread],
    events: list[tuple[float, Callable[[], object]]],
    *,
    seconds: float,
) -> tuple[list[tuple[float, float]], list[str]]:
    """Trigger the events; return the memory in MB by elapsed seconds, and the versions that answered, in order."""
    began, memory, versions = time.monotonic(), list[tuple[float, float]](), list[str]()
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(5.0, seconds / 100))
        passed = time.monotonic() - began
        memory.append((round(passed, 1), resident_megabytes(server)))
        while events and passed > events[0][0]:
            events.pop(0)[1]()
        if body := served.answered(f"http://127.0.0.1:{server.port}/v1/model"):
            version = json.loads(body)["version"]
            versions += [version] if version not in versions[-1:] else []
    return memory, versions


def kill_worker(server: served.Server, killed: list[float]) -> None:
    """Kill the oldest child process of the server, if any, and record the time."""
    if children := server.processes()[1:]:
        oldest = min(children, key=lambda process: process.create_time())
        killed.append(time.time())
        os.kill(oldest.pid, signal.SIGKILL)


def resident_megabytes(server: served.Server) -> float:
    """Return the memory of all processes of a server, shared pages counted once."""
    total = 0
    for process in server.processes():
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return round(total / 1e6, 1)


def summary(errors: list[tuple[float, int]], killed: list[float]) -> dict[str, Any]:
    """Return the number of errors, and of those that no kill explains."""
    elsewhere = [error for error in errors if not any(0 <= error[0] - moment < ERROR_SECONDS for moment in killed)]
    return {"after_a_kill": len(errors) - len(elsewhere), "elsewhere": len(elsewhere), "statuses": statuses(elsewhere)}


def statuses(errors: list[tuple[float, int]]) -> dict[str, int]:
    """Return the number of answers by status; 0 is a connection that ended."""
    found: dict[str, int] = {}
    for _, status in errors:
        found[str(status)] = found.get(str(status), 0) + 1
    return found


if __name__ == "__main__":
    main()
