"""Search better values for one candidate with Optuna, on the train and val splits, and hand them to `train`.

The candidate is named by the folder of best.yaml: models/cnn/best.yaml holds what replaces values of train.cnn.
"""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from darkroom import overrides, recipe, search_plan, study_files, tuned_space, tuning_report
from darkroom.compute import CLUSTERS, n_workers_of
from darkroom.console import run, say, stage_paths
from darkroom.dataset import Dataset
from darkroom.features import Features
from darkroom.machines import visible_gpus
from darkroom.params import ComputeParams, Section, digest, in_section, load_section
from darkroom.search_plan import Plan
from darkroom.space import Space, initial
from darkroom.train_params import Count, NonNegative, Positive, TrainParams
from darkroom.trial_choice import Choice, choose, summary
from darkroom.trial_rows import n_finished

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
        kept = Choice(None, f"nothing was tuned: {why}")
        tuning_report.write(paths.best, paths.report, rows=[], chosen=kept, values={})
        return
    prepared, augmented = Dataset.open(paths.prepared), Dataset.open(paths.augmented)
    features = Features.open(paths.features)
    origin = {"prepared_digest": prepared.manifest["digest"], "augmented_digest": augmented.manifest["digest"]}
    features.check_origin(**origin)
    data = recipe.pictures(prepared, augmented)
    n_epochs = tuned_space.check_trials(
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

    from darkroom import objective, provenance, search, store, tracking, tuning, tuning_runs
    from darkroom.tuning_progress import SearchProgress
    from darkroom.workers import Workers

    experiment, tracking_uri = str(prepared.manifest["dataset"]), store.tracking_uri()
    data_digest, params_digest = digest(list(origin.values())), digest(base)
    what = params.model_dump(exclude=CONTINUING) | {"space": params.space[candidate]}
    inputs = [data_digest, features.digest if recipe.transfer_mode(base) else None, params_digest]
    code = [provenance.package_digest(), Path(__file__).read_text()]
    about = digest([what, inputs, code, provenance.versions((*provenance.PACKAGES, "optuna"))])
    name = f"{params.study or experiment}-{candidate}" + ("" if params.study else f"-{about[:12]}")
    storage = study_files.storage_of(params.storage, study=name)
    tags = provenance.lineage_tags(data_digest=data_digest, params_digest=params_digest, candidate=candidate)
    tags |= {"study": name}
    tracking.connect(experiment)  # a server that does not answer must fail before minutes are spent

    def task_of(drawn: search.Draw) -> objective.Task:
        return objective.Task(
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
        tuning_runs.close_trial(number, study=name, experiment=experiment)
        say(f"tune: {candidate}: trial {number} was killed")

    with (
        store.store_lock(f"tune-{name}", timeout=0),
        search.Search(
            name,
            storage=storage,
            space=space,
            plan=plan,
            baseline=initial(space, base),
            about=about,
            rename=f"{params.study}-{about[:8]}",
        ) as study,
    ):
        tuning_runs.close_earlier(candidate, study=name, experiment=experiment)
        study_files.point_at(candidate, study=name, n_trials=params.trials)
        with tuning_runs.parent_run(
            study, experiment=experiment, name=f"tune-{candidate}", params=what, tags=tags
        ) as record:
            record.log_dataset(experiment, data_digest, source=str(paths.prepared), counts=prepared.manifest["counts"])
            deadline = None if params.minutes is None else time.time() + 60 * params.minutes
            with (
                tuning_runs.children_closed(record, experiment=experiment),
                Workers(
                    _n_workers(params, compute),
                    backend=compute.backend if compute.backend in CLUSTERS else "loky",
                    cpus=None if params.cpus == "auto" else params.cpus,
                    gpus=params.gpus,
                    address=compute.cluster,
                ) as workers,
                SearchProgress(params.trials) as progress,
            ):
                say(f"tune: {candidate}: {params.trials} trials on {workers.n} workers; study {name}")
                tuning.run(
                    study,
                    workers,
                    function=objective.run,
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
            tuning_report.draw(paths.report, rows=rows, scores=scores, space=space, plan=plan, chosen=chosen.number)
            tuning_report.write(paths.best, paths.report, rows=rows, chosen=chosen, values=better)
            record.log_metrics(summary(rows))
            shown = "none" if chosen.number is None else str(chosen.number)
            record.set_tags({"chosen.trial": shown, "chosen.reason": chosen.reason})
            record.log_artifact(paths.report)
            record.log_artifact(paths.best)
        study_files.point_at(candidate, study=name, n_trials=n_finished(rows))
    say(f"tune: {candidate}: {chosen.reason}")


def _n_workers(params: TuneParams, compute: ComputeParams) -> int | Literal["auto"]:
    """Return the number of workers; auto: as many as a cluster has room for, here one per GPU, or else one per core."""
    if params.workers != "auto" or compute.backend in CLUSTERS:
        return params.workers
    gpus = [] if compute.device == "cpu" else visible_gpus()
    return min(params.trials, len(gpus) or n_workers_of("auto"))


def checked_space(params: TuneParams, candidate: str, base: dict[str, Any]) -> Space:
    """Return the space of a candidate, after holding it against its section of train, and the plan against it.

    Raises:
        ParamsError: says which setting does not fit, and what to do.
    """
    space = tuned_space.read(params.space, candidate, base, is_searched=params.trials > 0)
    with in_section("tune"):
        search_plan.check(params.plan(epochs=1), space)
        if params.storage is not None:
            study_files.check_storage(params.storage)
    return space


if __name__ == "__main__":
    run(main)
