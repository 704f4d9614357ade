"""`darkroom serve` against `mlflow models serve`: the same registered version, machine and client, in one run.

    python -m benchmarks.serve                                     # 6 minutes on 2 cores
    python -m benchmarks.serve --parts --soak 10                   # 10 minutes of load through four changes, alone
    python -m benchmarks.serve --seconds 1 --parts rate --sizes 28 --connections 8      # a trial run

rate: requests per second and latencies at some connections, each of which sends one image and waits for the answer.
    darkroom is sent the image file; `darkroom_json` is the same server sent what mlflow is sent, base64 in JSON. mlflow
    runs with its defaults, one worker, and so does darkroom. Both write their access log to /dev/null. The client is a
    process of its own on the same cores (benchmarks/clients/http_load.py).
    bare_images_per_second is what all cores can do without HTTP, one image at a time: no server is faster.
    cpu_ms is the server's processor time per request, which other work on the machine changes least.
overhead: p50 of one connection, less the p50 of Package.predict on the same bytes in this process, with one thread, as
    the server runs it: what HTTP costs. Bare with all cores is told beside it.
ready: seconds from the start of the command to the first 200 of /readyz (darkroom) or /ping (mlflow), least of three.
import: seconds of a process that imports darkroom.cli.main, with any of these parts.
threads: darkroom's requests per second with some --threads and --network-threads; by default one per core, and one.
soak: minutes at 32 connections while the alias moves four times, three promotions and a rollback. memory_mb is the
    resident memory over the time; growth_mb is the last of it less that after a tenth of the time, when every thread
    has worked and every batch size has been seen.

The networks are the default one (compact) for 28x28 grey and 224x224 colour, untrained: weights do not change the time.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.clients.http_load import measure, quantile, request
from benchmarks.record import arguments, report

PARTS = ("rate", "overhead", "ready", "threads")
FILTERS = {28: [32, 64], 224: [16, 32, 64, 64]}
CLASSES = [f"class{number}" for number in range(10)]
N_IMAGES = 64  # different ones, sent in turn
N_VERSIONS = 3
TARGETS = {
    "rate": "at least 10 times the requests per second of mlflow at 8 connections, at most a tenth of its p95",
    "overhead": "at most 1.5 ms",
    "ready": "at most 4 s",
    "import": "of darkroom.cli.main at most 0.3 s more than of nothing",
    "soak": "no error; growth_mb near 0",
}


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(FILTERS), default=list(FILTERS))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="under load, through three promotions and a rollback"
    )
    options = parser.parse_args()
    if options.save and options.parts and set(options.parts) != set(PARTS):
        parser.error("--save takes all --parts, or none of them and --soak: what is recorded of a size is of one run")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)
        os.environ["DVC_ROOT"] = folder
        subprocess.run([sys.executable, "-m", "benchmarks.serve", "--models", folder, *map(str, FILTERS)], check=True)
        for size in options.sizes if options.parts else ():
            result[f"{size}x{size}"] = measured(
                size, options.parts, connections=options.connections, seconds=options.seconds
            )
        if options.parts:
            result["import"] = import_seconds()
        if options.soak:
            result["soak"] = soak(options.sizes[0], minutes=options.soak)
    result["targets"] = TARGETS
    packages = ["mlflow", "fastapi", "uvicorn", "h11", "uvloop", "onnxruntime", "numpy", "opencv-python-headless"]
    parts = [*(f"{size}x{size}" for size in FILTERS), "import", "soak"]
    report("serve", result, packages=packages, save=options.save, parts=parts)


def measured(size: int, parts: list[str], *, connections: list[int], seconds: float) -> dict[str, Any]:
    """Return what was asked for about images of one size."""
    found: dict[str, Any] = {}
    files = images(size)
    raw = [request("/v1/predict", file, "application/octet-stream") for file in files]
    encoded = [base64.b64encode(file).decode() for file in files]
    as_json = [request("/v1/predict", json.dumps({"image": text}).encode(), "application/json") for text in encoded]
    frame = [{"dataframe_split": {"columns": ["image"], "data": [[text]]}} for text in encoded]
    for_mlflow = [request("/invocations", json.dumps(one).encode(), "application/json") for one in frame]
    timing = {"seconds": seconds, "warm_up": min(2.0, seconds)}
    if "rate" in parts or "overhead" in parts:
        with darkroom(size) as server:
            sent = {"darkroom": raw, "darkroom_json": as_json}
            wanted = connections if "rate" in parts else [1]
            for name, requests in sent.items():
                found[name] = {n: server.measured(requests, connections=n, **timing) for n in wanted}
    if "rate" in parts:
        found["bare_images_per_second"] = bare_rate(size, files, seconds=seconds)
        with mlflow(size) as server:
            found["mlflow"] = {n: server.measured(for_mlflow, connections=n, **timing) for n in connections}
        found["times_the_requests"] = ratios(found, "requests_per_second", connections)
        found["share_of_p95"] = ratios(found, "p95_ms", connections)
    if "overhead" in parts and 1 in found["darkroom"]:
        bare, with_all_cores = (bare_p50_ms(size, files, n_threads=n, seconds=seconds) for n in (1, None))
        found["overhead"] = {
            "p50_ms": round(found["darkroom"][1]["p50_ms"] - bare, 3),
            "bare_p50_ms": round(bare, 3),
            "bare_with_all_cores_p50_ms": round(with_all_cores, 3),
        }
    if "ready" in parts:
        found["ready_seconds"] = {
            start.__name__: min(ready_seconds(start, size) for _ in range(3)) for start in (darkroom, mlflow)
        }
    if "threads" in parts:
        found["requests_per_second_with_threads"] = {}
        n_cores = os.cpu_count() or 1
        for n_threads, of_network in ((2, 1), (n_cores, 1), (n_cores, n_cores), (2 * n_cores, 1)):
            with darkroom(size, "--threads", str(n_threads), "--network-threads", str(of_network)) as server:
                rate = measure(server.port, raw, connections=8, **timing)["requests_per_second"]
            found["requests_per_second_with_threads"][f"{n_threads}, network {of_network}"] = rate
    return found


def ratios(found: dict[str, Any], key: str, connections: list[int]) -> dict[int, float]:
    """Return darkroom's value as a multiple of mlflow's, for every number of connections."""
    return {n: round(found["darkroom"][n][key] / found["mlflow"][n][key], 3) for n in connections}


def bare_rate(size: int, files: list[bytes], *, seconds: float) -> float:
    """Return images per second of Package.predict on one image file at a time, on a thread per core of this process."""
    from darkroom.deployable.package import Package
    from darkroom.registry import versions

    package = Package.load(versions.fetch(versions.find(f"of-{size}", alias="champion")), threads=1)
    until, n_cores = time.perf_counter() + seconds, len(os.sched_getaffinity(0))

    def predict(_: int) -> int:
        n_images = 0
        while time.perf_counter() < until:
            package.predict([files[n_images % len(files)]])
            n_images += 1
        return n_images

    with ThreadPoolExecutor(n_cores) as pool:
        return round(sum(pool.map(predict, range(n_cores))) / seconds, 1)


def bare_p50_ms(size: int, files: list[bytes], *, n_threads: int | None, seconds: float) -> float:
    """Return the median time of Package.predict on one image file, in this process."""
    from darkroom.deployable.package import Package
    from darkroom.registry import versions

    package = Package.load(versions.fetch(versions.find(f"of-{size}", alias="champion")), threads=n_threads)
    latencies, until = list[float](), time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        package.predict([files[len(latencies) % len(files)]])
        latencies.append((time.perf_counter() - started) * 1000)
    return quantile(sorted(latencies), 0.5) or 0.0


def import_seconds(rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of a process that imports darkroom.cli.main, and of one that imports nothing."""
    found = {}
    for name, code in {"darkroom.cli.main": "import darkroom.cli.main", "nothing": "pass"}.items():
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - began)
        found[name] = round(sorted(times)[rounds // 2], 3)
    return found


def ready_seconds(start: Any, size: int) -> float:
    with start(size) as server:
        return float(round(server.ready_seconds, 2))


# Load through changes of the champion


def soak(size: int, *, minutes: float) -> dict[str, Any]:
    """Return errors, latencies and memory under load while the alias moves."""
    from darkroom.registry import aliases, versions
    from darkroom.tracking import store

    store.client()  # the import of MLflow is no part of the load
    name, seconds = f"of-{size}", 60 * minutes
    raw = [request("/v1/predict", file, "application/octet-stream") for file in images(size)]
    first, second, third = sorted(versions.read(name).versions.values(), key=lambda version: int(version.version))
    moves = [
        lambda: aliases.promote(second, replacing=first.version, reasons=["soak"]),
        lambda: aliases.promote(third, replacing=second.version, reasons=["soak"]),
        lambda: aliases.promote(first, replacing=third.version, reasons=["soak"]),
        lambda: aliases.rollback(name, reason="soak"),
    ]
    load: dict[str, Any] = {}
    with darkroom(size, "--poll-seconds", "1") as server:
        process = psutil.Process(server.pid)

        def send() -> None:
            load.update(measure(server.port, raw, connections=32, seconds=seconds, warm_up=0.0))

        sender = threading.Thread(target=send)
        sender.start()
        started, memory, taken = time.monotonic(), [], [first.version]
        while sender.is_alive():
            sender.join(min(10.0, seconds / 60))
            passed = time.monotonic() - started
            memory.append((round(passed, 1), round(process.memory_info().rss / 1e6, 1)))
            if moves and passed > seconds * (5 - len(moves)) / 5:
                moves.pop(0)()
            version = json.loads(answered(f"http://127.0.0.1:{server.port}/v1/model"))["version"]
            taken += [version] if version != taken[-1] else []
    settled = next((megabytes for passed, megabytes in memory if passed >= seconds / 10), memory[-1][1])
    step = max(1, len(memory) // 20)
    return {
        "minutes": minutes,
        **load,
        "versions": taken,
        "growth_mb": round(memory[-1][1] - settled, 1),
        "memory_mb": dict(memory[::step]),
    }


# Servers and what they serve


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    port: int
    pid: int
    ready_seconds: float

    def measured(self, requests: list[bytes], **plan: Any) -> dict[str, Any]:
        """Return what the client saw, and cpu_ms: processor time per request, of all threads and child processes."""
        process = psutil.Process(self.pid)
        before = cpu_seconds(process)
        found = measure(self.port, requests, **plan)
        n_requests = sum(found["statuses"].values())
        return {**found, "cpu_ms": round(1000 * (cpu_seconds(process) - before) / max(1, n_requests), 3)}


@contextmanager
def darkroom(size: int, *options: str) -> Iterator[Server]:
    """Run `darkroom serve`."""
    port = free_port()
    command = ["-m", "darkroom.cli.main", "serve", "--model", f"of-{size}", "--port", str(port), *options]
    with started([sys.executable, *command], port, "/readyz") as server:
        yield server


@contextmanager
def mlflow(size: int) -> Iterator[Server]:
    """Run `mlflow models serve` in this environment."""
    from darkroom.tracking.store import tracking_uri

    port = free_port()
    uri = {"MLFLOW_TRACKING_URI": tracking_uri(), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = ["-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", str(port)]
    with started([sys.executable, *command, "-m", f"models:/of-{size}@champion"], port, "/ping", uri) as server:
        yield server


@contextmanager
def started(command: list[str], port: int, probe: str, variables: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a server until the end of the block; it is given two minutes to answer its probe."""
    # mlflow starts uvicorn by name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": path, **(variables or {})},
        start_new_session=True,
    )
    try:
        while not answered(f"http://127.0.0.1:{port}{probe}"):
            if process.poll() is not None or time.perf_counter() - began > 120:
                sys.exit(f"serve: {' '.join(command)} does not answer")
            time.sleep(0.01)
        yield Server(port, process.pid, time.perf_counter() - began)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def cpu_seconds(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def answered(url: str) -> bytes:
    """Return the body of a URL, nothing if there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - of this machine
            return bytes(answer.read())
    except OSError:
        return b""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def images(size: int) -> list[bytes]:
    """Return smooth noise as PNG (grey) or JPEG (colour)."""
    import cv2

    rng = np.random.default_rng(size)
    n_channels, ending = (1, ".png") if size == 28 else (3, ".jpg")
    small = rng.integers(0, 256, (N_IMAGES, 8, 8, n_channels), np.uint8)
    return [cv2.imencode(ending, cv2.resize(one, (size, size)))[1].tobytes() for one in small]


def register_versions(root: Path, sizes: list[int]) -> None:
    """Register three versions for each size, the first of them as champion; Keras is needed for this alone."""
    from darkroom.files.writing import sha256_of
    from darkroom.networks import build, export, inference
    from darkroom.registry import aliases, register
    from darkroom.tracking import runs

    for size in sizes:
        name, shape = f"of-{size}", (size, size, 1 if size == 28 else 3)
        said = {"classes": CLASSES, "image_shape": list(shape), "color": "grey" if size == 28 else "rgb"}
        for seed in range(N_VERSIONS):
            arguments = {"filters": FILTERS[size], "head": "flatten" if size == 28 else "average"}
            network = build.build("compact", image_shape=shape, n_classes=len(CLASSES), arguments=arguments, seed=seed)
            files = {"keras_path": root / "model.keras", "onnx_path": root / f"{name}-{seed}.onnx"}
            export.save(inference.deployable(network), **files, metadata=said)
            with runs.run(experiment=name, name="train", params={"seed": seed}, tags={"candidate": "cnn"}) as run:
                uri = run.log_package(files["onnx_path"])
            version = register.register(name, model_uri=uri, model_sha256=sha256_of(files["onnx_path"]), tags={})
            if seed == 0:
                aliases.promote(version, replacing=None, reasons=["the first"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--models"]:
        register_versions(Path(sys.argv[2]), [int(size) for size in sys.argv[3:]])
    else:
        main()
