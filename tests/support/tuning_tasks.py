"""Trials that cost nothing, for the tests of the coordinator; in a module of their own, which workers import."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from darkroom.errors import RegistryError
from darkroom.tuning.plan import Plan
from darkroom.tuning.study import Outcome
from darkroom.tuning.trial import Report

PLAN = Plan(
    sampler="random",
    pruner="none",
    seed=7,
    objectives=("val_accuracy",),
    limits={},
    n_startup_trials=3,
)


def run(task: dict[str, Any]) -> Outcome:
    """Begin and end a trial as trial.run does; `how` says what happens in between."""
    report = Report(task["number"], study=task["study"], storage=task["storage"], plan=PLAN, judged=range(0))
    report.begin(f"{socket.gethostname()}:{os.getpid()}")
    how = task.get("how", {}).get(str(task["number"]), task.get("how", {}).get("all", "complete"))
    if how == "late death":
        time.sleep(1.5)
    if how in ("die", "late death"):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "no server":
        raise RegistryError("MLflow store http://127.0.0.1:1: no answer")
    if how == "fail":
        return Outcome("failed", {}, reason=f"trial {task['number']} has no memory")
    if how == "grow":
        _HELD.append(b"x" * 200_000_000)
    if how == "wait":
        time.sleep(600)
    time.sleep(task.get("seconds", 0.0))
    report.epoch(1, task["accuracy"] / 2)
    with (Path(task["folder"]) / "ran").open("a") as file:
        file.write(json.dumps({"trial": task["number"], "process": os.getpid()}) + "\n")
    return Outcome("complete", {"val_accuracy": task["accuracy"]})


_HELD: list[bytes] = []
