"""Shared by serve.py and soak.py: registered versions, servers, and images to send."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.clients.http_load import measure
from benchmarks.peers import MODEL

ROOT = Path(__file__).resolve().parents[1]
FILTERS = {28: [32, 64], 224: [16, 32, 64, 64]}
CLASSES = [f"class{number}" for number in range(10)]
N_IMAGES = 64  # different ones, sent in turn
N_VERSIONS = 3
START_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    port: int
    pid: int
    ready_seconds: float

    def measured(self, requests: list[bytes], **plan: Any) -> dict[str, Any]:
        """Return the client's measurements and cpu_ms, the processor time per request of all threads and children."""
        before = self.cpu_seconds()
        found = measure(self.port, requests, **plan)
        n_requests = sum(found["statuses"].values())
        return {**found, "cpu_ms": round(1000 * (self.cpu_seconds() - before) / max(1, n_requests), 3)}

    def cpu_seconds(self) -> float:
        """Return the processor time of the server's processes so far."""
        times = [one.cpu_times() for one in self.processes()]
        return float(sum(one.user + one.system for one in times))

    def processes(self) -> list[Any]:
        """Return the server's process and all its children."""
        whole = psutil.Process(self.pid)
        return [whole, *whole.children(recursive=True)]


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
def peer(name: str, probe: str, model: Path, *, python: Path) -> Iterator[Server]:
    """Run benchmarks/peers/serving_NAME.py with the Python of another environment."""
    port = free_port()
    command = [str(python), "-m", f"benchmarks.peers.serving_{name}", str(port)]
    with started(command, port, probe, {MODEL: str(model)}) as server:
        yield server


@contextmanager
def started(command: list[str], port: int, probe: str, variables: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a server until the end of the block; it must answer its probe within two minutes."""
    # mlflow starts uvicorn by name.
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": path, **(variables or {})},
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        while not answered(f"http://127.0.0.1:{port}{probe}"):
            if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                sys.exit(f"{' '.join(command)}: does not answer")
            time.sleep(0.01)
        yield Server(port, process.pid, time.perf_counter() - began)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, by force after ten seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def answered(url: str) -> bytes:
    """Return the body of a URL, empty if the server does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - of this machine
            return bytes(answer.read())
    except OSError:
        return b""


def free_port() -> int:
    """Return a free port of this machine."""
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


def photographs(number: int = 4) -> list[bytes]:
    """Return smooth noise of 12 megapixels with some grain, as JPEGs of about 4 MB."""
    import cv2

    rng = np.random.default_rng(12)
    found = []
    for _ in range(number):
        image = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (4000, 3000), interpolation=cv2.INTER_CUBIC)
        grained = image.astype(np.int16) + rng.integers(-8, 9, image.shape, np.int16)
        found.append(cv2.imencode(".jpg", np.clip(grained, 0, 255).astype(np.uint8))[1].tobytes())
    return found


def register_versions(root: Path, sizes: list[int]) -> None:
    """Register versions for each size, the first as champion, in a separate process, because only this needs Keras."""
    arguments = [sys.executable, "-m", "benchmarks.served", str(root), *map(str, sizes)]
    subprocess.run(arguments, check=True, cwd=ROOT)


def _register(root: Path, sizes: list[int]) -> None:
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
    _register(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
