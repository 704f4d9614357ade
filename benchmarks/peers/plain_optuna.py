"""Search with plain Optuna: TPE, no pruner, the best trial is chosen; a side of benchmarks/tuning_peers.py.

    python -m benchmarks.peers.plain_optuna settings.json

The trainings are Darkroom's, on the data in the current directory. The result is printed as one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import optuna

from darkroom.training import overrides
from darkroom.training.candidate import Reports, train_candidate
from darkroom.training.opened import open_data


class Late(Exception):  # noqa: N818 - no error
    """The time of the search is over."""


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    end = settings["started"] + settings["seconds"]
    data = Path("data")
    opened = open_data(data / "prepared", data / "augmented", data / "features")
    base = {**settings["recipe"], "epochs": settings["trial_epochs"], "checkpoint": "best", "calibration": "none"}
    n_epochs = 0

    def on_epoch_end(_epoch: int, _logs: dict[str, float]) -> None:
        nonlocal n_epochs
        n_epochs += 1
        if time.time() > end:
            raise Late

    def objective(trial: optuna.Trial) -> float:
        values = {
            key: trial.suggest_float(key, *entry["float"], log=entry.get("log", False))
            for key, entry in settings["space"].items()
        }
        trained = train_candidate(
            overrides.apply(base, values),
            data=opened.data,
            image_shape=opened.image_shape,
            reports=Reports(on_epoch_end=on_epoch_end),
        )
        return trained.val_accuracy

    def stop_when_over(study: optuna.Study, _trial: Any) -> None:
        if time.time() > end:
            study.stop()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings["seed"]))
    study.optimize(objective, catch=(Late,), callbacks=[stop_when_over])
    found = {
        "n_trials": len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])),
        "n_epochs": n_epochs,
        "search_seconds": round(time.time() - settings["started"], 1),
        "search_val_accuracy": study.best_value,
        "values": study.best_params,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
