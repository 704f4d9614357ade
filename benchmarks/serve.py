"""`darkroom serve` against other model servers: the same ONNX file, machine and client, in one run.

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/peers/serving.txt
    python -m benchmarks.serve --peers PEERS                                     # 15 minutes on 2 cores
    python -m benchmarks.serve --rounds 1 --seconds 1 --parts rate --sizes 28 --connections 8      # a trial run

rate: requests per second and latencies for several numbers of connections, each of which sends one image and waits for
    the answer. All servers are up and are measured in short turns; medians count. The client is a separate process on
    the same cores (benchmarks/clients/http_load.py). darkroom and FastAPI get the image file, the others and
    `darkroom_json` base64 in JSON. darkroom and mlflow serve the registered version with their defaults; the others
    (see benchmarks/peers/serving_classifier.py) have a process per core, decode with OpenCV, and check nothing.
    bare_images_per_second is the rate of all cores without HTTP, one image at a time: no server can be faster.
    cpu_ms is the server's processor time per request, which depends least on other load of the machine.
overhead: p50 of one connection minus the p50 of Package.predict on the same bytes in this process, with one thread, as
    the server runs it: the cost of HTTP. The same with all cores is reported too.
photograph: the same for JPEGs of 12 megapixels and the network of 224x224.
ready: seconds from the start of the command to the first 200 of the server's probe, the minimum of two.
import: seconds of a process that imports darkroom.cli.main.
workers: darkroom's requests per second with several --workers and --network-threads; by default one per core (at least
    2), and one.

The networks are the default one (compact) for 28x28 grey and 224x224 colour, untrained, because weights do not change
the time. benchmarks/soak.py measures load during changes of the champion, lost workers and bombs.
"""

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import served
from benchmarks.clients.http_load import measure, quantile, request
from benchmarks.record import arguments, report
from benchmarks.served import FILTERS, Server

PARTS = ("rate", "overhead", "photograph", "ready", "import", "workers")
PROBES = {"litserve": "/health", "bentoml": "/readyz", "fastapi": "/readyz"}  # of the peers
PHOTOGRAPH_SIZE = 224
PHOTOGRAPH_CONNECTIONS = (1, 8)
TARGETS = {
    "rate": "first at 1, 8 and 32 connections; at 8, 28x28: at least 10 times the requests per second of mlflow, at "
    "most a tenth of its p95; 224x224: at least 0.9 of bare_images_per_second",
    "overhead": "at most 0.5 ms at 28x28, 1 ms at 224x224",
    "ready": "at most 4 s",
    "import": "of darkroom.cli.main at most 0.3 s more than of nothing",
}

Side = tuple[Server, list[bytes]]  # and its requests, in turn


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(FILTERS), default=list(FILTERS))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each server")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of a turn, after half a second of warm-up")
    parser.add_argument("--peers", type=Path, help="the environment of benchmarks/peers/serving.txt")
    options = parser.parse_args()
    if options.save and set(options.parts) != set(PARTS):
        parser.error("--save needs all --parts: the record of a size must be of one run")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)
        os.environ["DVC_ROOT"] = folder
        served.register_versions(Path(folder), list(FILTERS))
        for size in options.sizes:
            result[f"{size}x{size}"] = measured(size, options)
        if "photograph" in options.parts:
            result["photograph"] = photograph(options)
        if "import" in options.parts:
            result["import"] = import_seconds()
    if options.peers:
        lines = (served.ROOT / "benchmarks" / "peers" / "serving.txt").read_text().splitlines()
        result["peers"] = [line for line in lines if "==" in line]
    result["targets"] = TARGETS
    packages = ["mlflow", "fastapi", "onnxruntime", "numpy", "opencv-python-headless"]
    parts = [*(f"{size}x{size}" for size in FILTERS), "photograph", "import"]
    report("serve", result, packages=packages, save=options.save, parts=parts)


def measured(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the requested measurements for images of one size."""
    found: dict[str, Any] = {}
    files = served.images(size)
    if {"rate", "overhead"} & set(options.parts):
        connections = options.connections if "rate" in options.parts else [1]
        with ExitStack() as stack:
            sides = started(size, files, options, stack=stack)
            found |= turns(sides, connections, bare=Bare(size, files), options=options)
    if "ready" in options.parts:
        starts = (served.darkroom, served.mlflow)
        found["ready_seconds"] = {
            start.__name__: min(ready_seconds(partial(start, size)) for _ in range(2)) for start in starts
        }
    if "workers" in options.parts:
        found["requests_per_second_with_workers"] = with_workers(size, files, options)
    return found


def started(size: int, files: list[bytes], options: argparse.Namespace, *, stack: ExitStack) -> dict[str, Side]:
    """Start darkroom, and with the part `rate` all others; return each with its requests."""
    raw = {
        path: [request(path, file, "application/octet-stream") for file in files]
        for path in ("/v1/predict", "/predict")
    }
    encoded = [base64.b64encode(file).decode() for file in files]
    as_json = {path: posted(path, ({"image": text} for text in encoded)) for path in raw}
    ours = stack.enter_context(served.darkroom(size))
    sides = {"darkroom": (ours, raw["/v1/predict"]), "darkroom_json": (ours, as_json["/v1/predict"])}
    if "rate" not in options.parts:
        return sides
    frames = ({"dataframe_split": {"columns": ["image"], "data": [[text]]}} for text in encoded)
    sides["mlflow"] = (stack.enter_context(served.mlflow(size)), posted("/invocations", frames))
    python = options.peers / "bin" / "python" if options.peers else None
    for name, probe in PROBES.items():
        if python is None or subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode:
            print(f"serve: {name} is left out; see --peers", file=sys.stderr)
            continue
        server = stack.enter_context(served.peer(name, probe, onnx_file(size), python=python.absolute()))
        sides[name] = (server, (raw if name == "fastapi" else as_json)["/predict"])
    return sides


def posted(path: str, bodies: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return a JSON request for each body."""
    return [request(path, json.dumps(body).encode(), "application/json") for body in bodies]


def turns(
    sides: dict[str, Side], connections: Iterable[int], *, bare: "Bare", options: argparse.Namespace
) -> dict[str, Any]:
    """Return the medians of each side's turns, and the ratios of darkroom to the others."""
    each: dict[str, dict[int, list[dict[str, Any]]]] = {name: {n: [] for n in connections} for name in sides}
    rates, alone, overheads = list[float](), list[float](), list[float]()
    for _ in range(options.rounds):
        for name, (server, requests) in sides.items():
            for n, results in each[name].items():
                plan = {"connections": n, "seconds": options.seconds, "warm_up": min(0.5, options.seconds)}
                results.append(server.measured(requests, **plan))
        rates.append(bare.rate(options.seconds))
        alone.append(bare.p50_ms(options.seconds))
        if 1 in each["darkroom"]:
            overheads.append(each["darkroom"][1][-1]["p50_ms"] - alone[-1])
    found: dict[str, Any] = {name: {n: median(results) for n, results in of.items()} for name, of in each.items()}
    bare_rate = statistics.median(rates)
    compared: dict[str, Any] = {"bare_images_per_second": round(bare_rate, 1), "bare_p50_ms": rounded(alone)}
    if overheads:
        compared["overhead_p50_ms"] = rounded(overheads)
    for n in connections if len(sides) > 2 else ():
        rate = {name: found[name][n]["requests_per_second"] for name in sides if name != "darkroom_json"}
        compared.setdefault("by_requests_per_second", {})[n] = sorted(rate, key=lambda name: -rate[name])
        compared.setdefault("times_the_requests_of_mlflow", {})[n] = round(rate["darkroom"] / rate["mlflow"], 2)
        p95 = [found[name][n]["p95_ms"] for name in ("darkroom", "mlflow")]
        compared.setdefault("share_of_the_p95_of_mlflow", {})[n] = round(p95[0] / p95[1], 3)
        compared.setdefault("share_of_bare", {})[n] = round(rate["darkroom"] / bare_rate, 3)
    return found | compared


def median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of rates and times, the worst maximum, and the sums of counts."""
    found: dict[str, Any] = {}
    for key in ("requests_per_second", "p50_ms", "p95_ms", "p99_ms", "cpu_ms"):
        found[key] = rounded([one[key] for one in results if one[key] is not None])
    found["max_ms"] = max((one["max_ms"] for one in results if one["max_ms"] is not None), default=None)
    for key in ("n_requests", "n_errors"):
        found[key] = sum(one[key] for one in results)
    return found


def rounded(values: list[float]) -> float | None:
    """Return the median, None without values."""
    return round(statistics.median(values), 3) if values else None


class Bare:
    """Package.predict on one image file at a time in this process, without HTTP."""

    def __init__(self, size: int, files: list[bytes]) -> None:
        from darkroom.deployable.package import Package

        self._package = Package.load(onnx_file(size), threads=1)
        self._files = files
        self._n_cores = len(os.sched_getaffinity(0))

    def rate(self, seconds: float) -> float:
        """Return images per second with a thread per core."""
        with ThreadPoolExecutor(self._n_cores) as pool:
            latencies = pool.map(self._predict, [seconds] * self._n_cores)
            return sum(len(of_thread) for of_thread in latencies) / seconds

    def p50_ms(self, seconds: float) -> float:
        """Return the median time of one image with one thread."""
        return quantile(sorted(self._predict(seconds)), 0.5) or 0.0

    def _predict(self, seconds: float) -> list[float]:
        latencies, until = list[float](), time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            self._package.predict([self._files[len(latencies) % len(self._files)]])
            latencies.append((time.perf_counter() - began) * 1000)
        return latencies


def onnx_file(size: int) -> Path:
    """Return the file of the champion."""
    from darkroom.registry import versions

    return versions.fetch(versions.find(f"of-{size}", alias="champion"))


def photograph(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements for photographs of 12 megapixels, and the time of decoding alone."""
    from darkroom.deployable.images import Form, prepare

    files = served.photographs()
    form, times = Form((PHOTOGRAPH_SIZE, PHOTOGRAPH_SIZE), "rgb"), []
    for file in files * 3:
        began = time.perf_counter()
        prepare(file, form, max_pixels=10**8)
        times.append((time.perf_counter() - began) * 1000)
    bare = Bare(PHOTOGRAPH_SIZE, files)
    with ExitStack() as stack:
        sides = started(PHOTOGRAPH_SIZE, files, options, stack=stack)
        found = turns(sides, PHOTOGRAPH_CONNECTIONS, bare=bare, options=options)
    sizes = {"mean_bytes": round(statistics.mean(map(len, files))), "prepare_p50_ms": rounded(times)}
    return sizes | found


def with_workers(size: int, files: list[bytes], options: argparse.Namespace) -> dict[str, float]:
    """Return darkroom's requests per second at 8 connections, by the numbers of workers and network threads."""
    raw = [request("/v1/predict", file, "application/octet-stream") for file in files]
    n_cores, found = len(os.sched_getaffinity(0)), {}
    for n_workers, of_network in ((2, 1), (n_cores, 1), (n_cores, n_cores), (2 * n_cores, 1)):
        with served.darkroom(size, "--workers", str(n_workers), "--network-threads", str(of_network)) as server:
            plan = {"connections": 8, "seconds": options.seconds, "warm_up": 0.5}
            rates = [measure(server.port, raw, **plan)["requests_per_second"] for _ in range(options.rounds)]
        found[f"{n_workers}, network {of_network}"] = statistics.median(rates)
    return found


def import_seconds(rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of a process that imports darkroom.cli.main, and of one without imports."""
    found = {}
    for name, code in {"darkroom.cli.main": "import darkroom.cli.main", "nothing": "pass"}.items():
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - began)
        found[name] = round(sorted(times)[rounds // 2], 3)
    return found


def ready_seconds(start: Callable[[], Any]) -> float:
    """Return how long a server took to start."""
    with start() as server:
        return float(round(server.ready_seconds, 2))


if __name__ == "__main__":
    main()
