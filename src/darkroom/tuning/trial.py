"""One trial in a worker process: a shorter training than that of the stage train.

The opened data and TensorFlow stay loaded for the next trial of the process; networks do not.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import Trial

from darkroom.errors import DarkroomError, RegistryError, SearchError, Stopped, TrainingError
from darkroom.project.console import loading_keras
from darkroom.training import recipe
from darkroom.training.opened import Opened, open_data
from darkroom.training.recipe import Recipe, transfer_mode
from darkroom.tuning.plan import Plan
from darkroom.tuning.samplers import make_pruner, quiet
from darkroom.tuning.storage import load_study, storage_errors
from darkroom.tuning.study import Outcome

if TYPE_CHECKING:
    import keras


class Report:
    """A worker's side of a trial: records its intermediate results.

    Args:
        number: of the trial.
        study, storage, plan: of the Search that drew it.
        judged: numbers of epochs, over all phases, after which the pruner may stop it.

    Raises:
        SearchError: the storage does not answer.
    """

    def __init__(self, number: int, *, study: str, storage: str, plan: Plan, judged: range) -> None:
        self._storage, self._plan, self._judged = storage, plan, judged
        with storage_errors(storage), quiet():
            joined = load_study(study, storage)
            joined.pruner = make_pruner(plan)
            found = next(trial for trial in joined.get_trials(deepcopy=False) if trial.number == number)
            self._trial = Trial(joined, found._trial_id)

    def begin(self, worker: str) -> None:
        """Record the worker of the trial."""
        with storage_errors(self._storage):
            self._trial.set_user_attr("worker", worker)

    def epoch(self, epoch: int, val_accuracy: float) -> None:
        """Record the accuracy after an epoch, counted from 1 over all phases.

        Raises:
            Stopped: the pruner stops the trial; never trial 0, with which others are compared.
        """
        with storage_errors(self._storage), quiet():
            if len(self._plan.objectives) > 1:  # Optuna neither stores it nor prunes
                curve = {**self._trial.user_attrs.get("curve", {}), str(epoch): val_accuracy}
                self._trial.set_user_attr("curve", curve)
                return
            self._trial.report(val_accuracy, epoch)
            is_judged = epoch in self._judged and not self._trial.user_attrs.get("baseline")
            if is_judged and self._trial.should_prune():
                raise Stopped(f"pruned after epoch {epoch} at val accuracy {val_accuracy:.4f}")


LATENCY_REPEATS = 50  # number of timed single-image predictions


def as_trial(settings: Recipe, *, epochs: int | None) -> dict[str, Any]:
    """Return the params of a trial, with equal values for everything that its validation images cannot judge.

    Every trial is judged in its best epoch, and none is calibrated.

    Args:
        epochs: maximum per phase; None: as many as the params have.
    """
    shorter = recipe.shortened(settings, epochs=epochs)
    promises = shorter["abstain"] or shorter["sets"]
    abstain = (
        {"error_rate": 0.5, "confidence": 0.5} if promises else None
    )  # trials depend only on whether images are set aside
    told = {"checkpoint": "best", "calibration": "none", "unknown_below": None, "abstain": abstain, "sets": None}
    return {**shorter, **told}


def judged(settings: Recipe) -> range:
    """Return the numbers of epochs after which a trial may be stopped: in the last quarter of its last phase.

    While the learning rate is high, accuracies say little about the end of the schedule.
    """
    n_epochs = recipe.n_epochs(settings)
    of_last = settings["architecture"]["finetune_epochs"] if transfer_mode(settings) == "finetune" else n_epochs
    return range(n_epochs - of_last // 4, n_epochs)


@dataclass(frozen=True)
class Task:
    """Everything that a worker on any machine needs for a trial.

    Attributes:
        number: of the trial.
        name: of its run in MLflow.
        study, storage, plan: see Report.
        recipe: the section train.<candidate> with the trial's values.
        fraction: of the training images of each class.
        prepared, augmented, features: outputs of earlier stages.
        device: compute.device.
        measured: costs to measure, of rows.COSTS.
        experiment, parent_run, tracking_uri, tags: of the MLflow run.
        deadline: Unix time in seconds after which the trial ends with its next epoch; None: never.
    """

    number: int
    name: str
    study: str
    storage: str
    plan: Plan
    recipe: Mapping[str, Any]
    fraction: float
    prepared: Path
    augmented: Path
    features: Path
    device: str
    measured: tuple[str, ...]
    experiment: str
    parent_run: str
    tracking_uri: str
    tags: Mapping[str, str]
    deadline: float | None


def run(task: Task) -> Outcome:
    """Run a trial and return how it ended.

    Errors of the trial itself (memory, a loss that is not finite, settings that do not fit) are part of the outcome.

    Raises:
        RegistryError, SearchError: MLflow's store or the study's storage do not answer, so that no trial can run.
    """
    report = Report(task.number, study=task.study, storage=task.storage, plan=task.plan, judged=judged(task.recipe))
    report.begin(f"{socket.gethostname()}:{os.getpid()}")
    return _ended(task, report.epoch)


def confirm(task: Task) -> Outcome:
    """Run a training that is not a trial of the study and has no time limit; see run."""
    return _ended(task, lambda _epoch, _accuracy: None)


def _ended(task: Task, report: Callable[[int, float], None]) -> Outcome:
    try:
        return _tracked(task, report)
    except Stopped as stop:
        return Outcome("pruned", {}, reason=str(stop))
    except (RegistryError, SearchError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, DarkroomError) else f"{type(error).__name__}: "
        return Outcome("failed", {}, reason=kind + " ".join(str(error).split())[:500])


def _tracked(task: Task, report: Callable[[int, float], None]) -> Outcome:
    """Train in a child run of the parent (FINISHED, KILLED if pruned, or FAILED), and return the outcome."""
    os.environ["MLFLOW_TRACKING_URI"] = task.tracking_uri
    from darkroom.tracking import runs

    with runs.run(
        experiment=task.experiment,
        name=task.name,
        params=task.recipe,
        tags=task.tags,
        parent=task.parent_run,
    ) as record:

        def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
            record.log_epoch(epoch, logs)
            report(epoch, logs["val_accuracy"])
            is_last = epoch == recipe.n_epochs(task.recipe)
            if task.deadline is not None and time.time() > task.deadline and not is_last:
                raise Stopped(f"tune.minutes were over after epoch {epoch}")

        try:
            ended = _train(task, on_epoch_end)
        except Stopped as stop:
            number, _, drawn = task.name.partition(" ")
            record.rename(f"{number} pruned {drawn}")  # MLflow has no such status, and shows a cross
            record.note("Pruned", str(stop))
            raise
        record.log_metrics(ended.metrics)  # pruned trials have none, so that they are not compared with complete ones
    return ended


def _train(task: Task, on_epoch_end: Callable[[int, dict[str, float]], None]) -> Outcome:
    aside = recipe.set_aside_from(task.recipe, searching=True)
    opened = _opened(task.prepared, task.augmented, task.features, aside)
    data, shape, features = opened.data, opened.image_shape, opened.features
    recipe.check(task.recipe, data, image_shape=shape, features=features, fraction=task.fraction)
    with loading_keras():
        from darkroom.networks import export
        from darkroom.networks.runtime import memory
        from darkroom.training import candidate

        export.check_backend()
        _prepare(task.device)
    try:
        trained = candidate.train_candidate(
            task.recipe,
            data=data,
            image_shape=shape,
            features=features,
            extractor_of=recipe.extractor_of(features, image_shape=shape),
            policy=recipe.policy_of(task.recipe, features),
            fraction=task.fraction,
            reports=candidate.Reports(on_epoch_end=on_epoch_end),
        )
        costs = _costs(trained.model, opened) if task.measured else {}
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise TrainingError(f"out of memory: {str(error)[:300]}") from None
        raise
    finally:
        memory.forget_networks()
    metrics = {"val_accuracy": trained.val_accuracy, "train_seconds": trained.progress.train_seconds}
    metrics |= {name: costs[name] for name in task.measured}
    return Outcome("complete", metrics, right=trained.val_right)


@cache
def _opened(prepared: Path, augmented: Path, features: Path, set_aside_from: int | None) -> Opened:
    """Return the data of all trials, memory-mapped once per process."""
    return open_data(prepared, augmented, features, set_aside_from=set_aside_from)


@cache
def _prepare(device: str) -> str:
    """Set up the device, which is possible only once per process."""
    from darkroom.networks.runtime.device import prepare

    return prepare(device)


def _costs(model: "keras.Model", opened: Opened) -> dict[str, float]:
    """Return latency_ms (median for single images) and model_bytes of the deployable model."""
    from darkroom.deployable.package import Package
    from darkroom.networks import export

    shown = opened.data.val_images[np.arange(1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export.export(model, Path(folder), metadata=opened.metadata, images=shown)
        latencies = Package.load(path).latencies_ms(shown[0], repeats=LATENCY_REPEATS)
        return {"latency_ms": float(np.median(latencies)), "model_bytes": float(path.stat().st_size)}
