"""What does a night without news cost, and is the champion safe from kills? `darkroom retrain` on the smoke preset.

A clone of this repository is trained once. Then a retraining without changes is timed, and a retraining of a changed
setting is killed (SIGKILL, at random moments) a given number of times, half of the kills only the process that runs DVC
and half also its stages, while a client keeps loading models:/digits@champion. The last run is not killed.
"""

import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.clients.champion import ChampionClient
from benchmarks.record import arguments, report
from darkroom.cli import presets
from darkroom.operations.undo import lock_is_valid
from darkroom.registry import versions

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("MLFLOW_", "DVC_", "DARKROOM_", "KERAS_BACKEND", "PYTHONPATH")


def clone(folder: Path, environment: dict[str, str]) -> Path:
    root = folder / "darkroom"
    for command in (
        ["git", "clone", "--quiet", str(ROOT), str(root)],
        ["git", "-C", str(root), "config", "user.name", "benchmark"],
        ["git", "-C", str(root), "config", "user.email", "benchmark@localhost"],
    ):
        subprocess.run(command, check=True)
    (root / "params.yaml").write_text(presets.text("smoke", root=root))
    (root / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["dvc", "repro"], cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
    return root


def start(root: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a retraining in its own process group."""
    command = [sys.executable, "-m", "darkroom.cli.main", "retrain"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=root, env=environment, start_new_session=True, stdout=quiet, stderr=quiet)


def kill_at(process: "subprocess.Popen[bytes]", moment: float, *, stages: bool) -> bool:
    """Kill the process, with or without its stages, after some seconds; return whether it was still running."""
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        if stages:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        return True
    return False


def champions(model: str) -> list[tuple[str | None, str | None]]:
    return [(entry["from"], entry["to"]) for entry in versions.read(model).history() if entry["alias"] == "champion"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(LEFT_OUT)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        root = clone(Path(folder), environment)
        os.environ |= {"DVC_ROOT": str(root), "MLFLOW_TRACKING_URI": ""}
        result = measure(root, environment, n_kills=options.kills, seed=options.seed)
    report("retrain", result, packages=["dvc", "mlflow", "tensorflow", "keras"], save=options.save)


def measure(root: Path, environment: dict[str, str], *, n_kills: int, seed: int) -> dict[str, Any]:
    start(root, environment).wait()  # the first one writes a record
    no_op = []
    for _ in range(3):
        began = time.perf_counter()
        start(root, environment).wait()
        no_op.append(time.perf_counter() - began)
        assert json.loads((root / "reports" / "retrain.json").read_text())["decision"] == "nothing"
    began = time.perf_counter()
    change(root, seed=1)
    start(root, environment).wait()
    whole = time.perf_counter() - began

    draw = random.Random(seed)  # noqa: S311 - no secret
    before = champions("digits")
    change(root, seed=2)
    n_killed = n_in_time = 0
    with ChampionClient("digits") as client:
        while n_killed < n_kills:
            if kill_at(start(root, environment), draw.uniform(0.5, whole), stages=n_killed % 2 == 0):
                n_killed += 1
            else:  # it had finished: change something for the next one
                n_in_time += 1
                change(root, seed=3 + n_in_time)
        last = start(root, environment)
        last.wait()
    said = json.loads((root / "reports" / "retrain.json").read_text())
    after = champions("digits")
    return {
        "no_op_seconds": round(statistics.median(no_op), 1),
        "no_op_target": "at most 12 s",
        "retraining_seconds": round(whole, 1),
        "n_kills": n_killed,
        "n_runs_that_ended_before_their_kill": n_in_time,
        "n_answers_of_the_champion": client.n_answers,
        "n_failures_of_the_champion": len(client.failures),
        "first_failure": next(iter(client.failures), None),
        "failures_target": "none",
        "last_run_exit_status": last.returncode,
        "last_run_decision": said["decision"],
        "history_without_a_gap": after[: len(before)] == before
        and all(move[1] == following[0] for move, following in itertools.pairwise(after)),
        "dvc_lock_is_valid": lock_is_valid(root / "dvc.lock"),
        "state_is_clean": not (root / ".darkroom" / "retrain" / "state.json").exists(),
    }


def change(root: Path, *, seed: int) -> None:
    """Give the training another seed, the smallest change that causes a training."""
    path = root / "params.yaml"
    lines = path.read_text().splitlines()
    number = max(index for index, line in enumerate(lines) if line.startswith("    seed:"))
    lines[number] = f"    seed: {seed}"
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
