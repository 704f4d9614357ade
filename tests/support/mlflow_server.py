"""Servers of the tests' own, on loopback: MLflow, and others that say when they have started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(root: Path, *, artifacts: Sequence[str] = ()) -> Iterator[str]:
    """Run `mlflow server` on root/mlflow.db; yield its URI.

    Args:
        artifacts: the options that say where artifacts go; none: root/remote, through the server.
    """
    command: list[str | Path] = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--host", "127.0.0.1", "--port", "{port}"]
    command += artifacts or ["--artifacts-destination", str(root / "remote")]
    # Without it, eight more processes start that import MLflow and wait for jobs: 50 s of CPU.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with listening(command, folder=root, environment=environment) as uri:
        yield uri


@contextmanager
def listening(
    command: list[str | Path],
    *,
    folder: Path,
    environment: dict[str, str],
    started: str = "Application startup complete",
) -> Iterator[str]:
    """Run a server on loopback, from a directory and with a log in it, until its log has the words `started`.

    Args:
        command: in its words, {port} stands for the port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word).replace("{port}", str(port)) for word in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            cwd=folder,
        )
        try:
            while started not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
