"""Search better values for one candidate with Optuna, on the train and val splits, and hand them to `train`.

The candidate is named by the folder of best.yaml: models/cnn/best.yaml holds what replaces values of train.cnn.
"""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from darkroom.compute.local import visible_gpus
from darkroom.compute.stream import n_workers_of
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import ComputeParams, Section, digest, in_section, load_section
from darkroom.training import overrides, recipe
from darkroom.training.params import Count, NonNegative, Positive, TrainParams
from darkroom.tuning import location, report
from darkroom.tuning.choice import ChosenTrial, choose, summary
from darkroom.tuning.plan import Plan, check
from darkroom.tuning.rows import n_finished
from darkroom.tuning.space import checks
from darkroom.tuning.space.domains import Space, initial

# The sources that a trial depends on, as dvc.yaml lists them: a change of another file does not discard a study.
SEARCHED = (
    *("errors.py", "project", "files", "compute", "figures", "data/arrays", "data/fetching", "deployable"),
    *("evaluation/metrics", "networks", "tracking", "training", "tuning"),
)
# What decides how a search is done, and not what it finds: a change of these continues the study.
CONTINUING = {"trials", "minutes", "alpha", "workers", "cpus", "gpus", "max_worker_bytes", "storage", "study", "space"}


class TuneParams(Section):
    """The section `tune`."""

    trials: Annotated[int, Field(ge=0)]  # per candidate
    minutes: Positive | None
    epochs: Count | None  # at most, of each phase of a trial
    fraction: Annotated[float, Field(gt=0, le=1)]  # of the training images
    sampler: Literal["tpe", "random", "grid", "cma-es", "gp", "qmc"]
    pruner: Literal["hyperband", "median", "wilcoxon", "none"]
    objectives: list[Literal["val_accuracy", "latency_ms", "model_bytes"]]
    max_latency_ms: Positive | None
    max_model_bytes: Count | None
    alpha: Annotated[float, Field(gt=0, lt=1)]
    space: dict[str, Any]
    seed: Annotated[int, Field(ge=0)]
    workers: Count | Literal["auto"]
    cpus: Count | Literal["auto"]  # per worker
    gpus: NonNegative  # per worker, on a cluster
    max_worker_bytes: Count | None
    storage: str | None
    study: Annotated[str, Field(pattern=r"^[\w-]+$")] | None  # the candidate's name is added

    @field_validator("objectives")
    @classmethod
    def _accuracy_first(cls, value: list[str]) -> list[str]:
        if value not in (["val_accuracy"], ["val_accuracy", "latency_ms"], ["val_accuracy", "model_bytes"]):
            raise ValueError("expected [val_accuracy], alone or with latency_ms or model_bytes behind it")
        return value

    @property
    def limits(self) -> dict[str, float]:
        """The greatest value of each metric that has one."""
        both = {"latency_ms": self.max_latency_ms, "model_bytes": self.max_model_bytes}
        return {metric: float(limit) for metric, limit in both.items() if limit is not None}

    def plan(self, *, epochs: int) -> Plan:
        """Return how the space is searched by trials of so many epochs at most."""
        return Plan(
            sampler=self.sampler,
            pruner=self.pruner,
            seed=self.seed,
            objectives=tuple(str(metric) for metric in self.objectives),
            limits=self.limits,
            epochs=epochs,
            n_startup_trials=min(10, max(3, self.trials // 4)),  # Optuna's 10 would leave nothing of a short search
        )


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "augmented", "features", "best", "report")
    candidate = paths.best.parent.name
    params = load_section("tune", TuneParams)
    base = load_section(f"train.{candidate}", TrainParams).model_dump()
    compute = load_section("compute", ComputeParams)
    space = checked_space(params, candidate, base)
    if params.trials == 0 or not space:
        why = "tune.trials is 0" if params.trials == 0 else f"tune.space.{candidate} is empty"
        kept = ChosenTrial(None, f"nothing was tuned: {why}")
        report.write(paths.best, paths.report, rows=[], chosen=kept, values={})
        return
    prepared, augmented = Dataset.open(paths.prepared), Dataset.open(paths.augmented)
    features = Features.open(paths.features)
    origin = {"prepared_digest": prepared.manifest["digest"], "augmented_digest": augmented.manifest["digest"]}
    features.check_origin(**origin)
    data = recipe.pictures(prepared, augmented)
    n_epochs = checks.check_trials(
        space,
        candidate,
        base,
        data=data,
        image_shape=prepared.image_shape,
        features=features,
        fraction=params.fraction,
        epochs=params.epochs,
    )
    plan = params.plan(epochs=n_epochs)

    from darkroom.compute.workers import Workers
    from darkroom.project import locks
    from darkroom.tracking import provenance, store
    from darkroom.tracking.runs import connect
    from darkroom.tuning import coordinator, trial
    from darkroom.tuning.progress import SearchProgress
    from darkroom.tuning.runs import children_closed, close_earlier, close_trial, parent_run
    from darkroom.tuning.study import Draw, Search

    experiment, tracking_uri = str(prepared.manifest["dataset"]), store.tracking_uri()
    data_digest, params_digest = digest(list(origin.values())), digest(base)
    what = params.model_dump(exclude=CONTINUING) | {"space": params.space[candidate]}
    inputs = [data_digest, features.digest if recipe.transfer_mode(base) else None, params_digest]
    code = [provenance.source_digest(SEARCHED), Path(__file__).read_text()]
    about = digest([what, inputs, code, provenance.versions((*provenance.PACKAGES, "optuna"))])
    name = f"{params.study or experiment}-{candidate}" + ("" if params.study else f"-{about[:12]}")
    storage = location.storage_of(params.storage, study=name)
    tags = provenance.lineage_tags(data_digest=data_digest, params_digest=params_digest, candidate=candidate)
    tags |= {"study": name}
    connect(experiment)  # a server that does not answer must fail before minutes are spent

    def task_of(drawn: Draw) -> trial.Task:
        return trial.Task(
            number=drawn.number,
            study=name,
            storage=storage,
            plan=plan,
            recipe=recipe.shortened(overrides.apply(base, drawn.overrides), epochs=params.epochs),
            fraction=params.fraction,
            prepared=paths.prepared.resolve(),
            augmented=paths.augmented.resolve(),
            features=paths.features.resolve(),
            device=compute.device,
            measured=tuple(sorted({*params.objectives[1:], *params.limits})),
            experiment=experiment,
            parent_run=record.id,
            tracking_uri=tracking_uri,
            tags=tags,
            deadline=None if drawn.is_baseline else deadline,  # without trial 0 no other can be judged
        )

    def on_lost(number: int) -> None:
        close_trial(number, study=name, experiment=experiment)
        say(f"tune: {candidate}: trial {number} was killed")

    with (
        locks.store_lock(f"tune-{name}", timeout=0),
        Search(
            name,
            storage=storage,
            space=space,
            plan=plan,
            baseline=initial(space, base),
            about=about,
            rename=f"{params.study}-{about[:8]}",
        ) as study,
    ):
        close_earlier(candidate, study=name, experiment=experiment)
        location.point_at(candidate, study=name, n_trials=params.trials)
        with parent_run(study, experiment=experiment, name=f"tune-{candidate}", params=what, tags=tags) as record:
            record.log_dataset(experiment, data_digest, source=str(paths.prepared), counts=prepared.manifest["counts"])
            deadline = None if params.minutes is None else time.time() + 60 * params.minutes
            with (
                children_closed(record, experiment=experiment),
                Workers(
                    _n_workers(params, compute),
                    backend="ray" if compute.backend == "ray" else "loky",
                    cpus=None if params.cpus == "auto" else params.cpus,
                    gpus=params.gpus,
                    address=compute.cluster,
                ) as workers,
                SearchProgress(params.trials) as progress,
            ):
                say(f"tune: {candidate}: {params.trials} trials on {workers.n} workers; study {name}")
                coordinator.run(
                    study,
                    workers,
                    function=trial.run,
                    task_of=task_of,
                    n_trials=params.trials,
                    deadline=deadline,
                    max_worker_bytes=params.max_worker_bytes,
                    on_lost=on_lost,
                    on_change=progress.on_change,
                )
            rows = study.rows()
            chosen = choose(rows, objectives=plan.objectives, n_val=len(data.val_labels), alpha=params.alpha)
            better = {} if chosen.number is None else study.overrides(chosen.number)
            scores = study.importance()
            report.draw(paths.report, rows=rows, scores=scores, space=space, plan=plan, chosen=chosen.number)
            report.write(paths.best, paths.report, rows=rows, chosen=chosen, values=better)
            record.log_metrics(summary(rows))
            shown = "none" if chosen.number is None else str(chosen.number)
            record.set_tags({"chosen.trial": shown, "chosen.reason": chosen.reason})
            record.log_artifact(paths.report)
            record.log_artifact(paths.best)
        location.point_at(candidate, study=name, n_trials=n_finished(rows))
    say(f"tune: {candidate}: {chosen.reason}")


def _n_workers(params: TuneParams, compute: ComputeParams) -> int | Literal["auto"]:
    """Return the number of workers; auto: as many as a cluster has room for, here one per GPU, or else one per core."""
    if params.workers != "auto" or compute.backend == "ray":
        return params.workers
    gpus = [] if compute.device == "cpu" else visible_gpus()
    return min(params.trials, len(gpus) or n_workers_of("auto"))


def checked_space(params: TuneParams, candidate: str, base: dict[str, Any]) -> Space:
    """Return the space of a candidate, after holding it against its section of train, and the plan against it.

    Raises:
        ParamsError: says which setting does not fit, and what to do.
    """
    space = checks.read(params.space, candidate, base, is_searched=params.trials > 0)
    with in_section("tune"):
        check(params.plan(epochs=1), space)
        if params.storage is not None:
            location.check_storage(params.storage)
    return space


if __name__ == "__main__":
    run(main)
