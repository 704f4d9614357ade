"""An MLflow server of the tests' own, on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(root: Path) -> Iterator[str]:
    """Run `mlflow server` on root/mlflow.db, artifacts in root/remote; yield its URI."""
    command: list[str | Path] = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "remote")]
    # Without it, eight more processes start that import MLflow and wait for jobs: 50 s of CPU.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with listening(command, folder=root, environment=environment) as uri:
        yield uri


@contextmanager
def listening(command: list[str | Path], *, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run a command of MLflow that serves on the --host and --port it is given, from and with a log in a directory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            cwd=folder,
        )
        try:
            while "Application startup complete" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
