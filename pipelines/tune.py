"""Search better values for one candidate with Optuna, on the train and val splits, and hand them to `train`.

The candidate is named by the folder of best.yaml: models/cnn/best.yaml holds what replaces values of train.cnn.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from darkroom import overrides, recipe, search_plan, study_files
from darkroom.console import run, say, stage_paths
from darkroom.dataset import Dataset
from darkroom.errors import ParamsError
from darkroom.features import Features
from darkroom.files import write_text
from darkroom.params import ComputeParams, Section, digest, explain, in_section, load_section
from darkroom.recipe import shortened
from darkroom.search_plan import Plan
from darkroom.space import Range, Space, domains, edges, initial, parse
from darkroom.train_params import Count, NonNegative, Positive, TrainParams
from darkroom.trial_choice import Choice, choose, summary
from darkroom.trial_rows import TrialRow, write_csv

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
    gpus: NonNegative  # per worker, on Ray
    max_worker_bytes: Count | None
    storage: str | None
    study: str | None

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
        objectives = tuple(str(metric) for metric in self.objectives)
        return Plan(self.sampler, self.pruner, self.seed, objectives, self.limits, epochs)


def main() -> None:
    paths = stage_paths(__doc__, "prepared", "augmented", "features", "best", "report")
    candidate = paths.best.parent.name
    params = load_section("tune", TuneParams)
    base = load_section(f"train.{candidate}", TrainParams).model_dump()
    compute = load_section("compute", ComputeParams)
    space = checked_space(params, candidate, base)
    if params.trials == 0 or not space:
        why = "tune.trials is 0" if params.trials == 0 else f"tune.space.{candidate} is empty"
        _write(paths.best, paths.report, rows=[], chosen=Choice(None, f"nothing was tuned: {why}"), values={})
        return
    prepared, augmented = Dataset.open(paths.prepared), Dataset.open(paths.augmented)
    features = Features.open(paths.features)
    origin = {"prepared_digest": prepared.manifest["digest"], "augmented_digest": augmented.manifest["digest"]}
    features.check_origin(**origin)
    data = recipe.pictures(prepared, augmented)
    plan = params.plan(epochs=_check_trials(params, candidate, base, space, prepared, data, features))

    from darkroom import objective, provenance, search, store, tracking, tuning
    from darkroom.tuning_progress import SearchProgress
    from darkroom.workers import Workers

    experiment, tracking_uri = str(prepared.manifest["dataset"]), store.tracking_uri()
    data_digest, params_digest = digest(list(origin.values())), digest(base)
    what = params.model_dump(exclude=CONTINUING) | {"space": params.space[candidate]}
    inputs = [data_digest, features.digest if recipe.transfer_mode(base) else None, params_digest]
    about = digest([what, *inputs, provenance.package_digest(), provenance.versions()])
    name = params.study or f"{experiment}-{candidate}-{about[:12]}"
    storage = study_files.storage_of(params.storage, study=name)
    tags = provenance.lineage_tags(data_digest=data_digest, params_digest=params_digest, candidate=candidate)
    tracking.connect(experiment)  # a server that does not answer must fail before minutes are spent

    def task_of(drawn: search.Draw) -> objective.Task:
        return objective.Task(
            number=drawn.number,
            study=name,
            storage=storage,
            plan=plan,
            recipe=shortened(overrides.apply(base, drawn.overrides), epochs=params.epochs),
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
            deadline=deadline,
        )

    def on_lost(number: int) -> None:
        tracking.end_children(experiment, record.id, trial=number)
        say(f"tune: {candidate}: trial {number} was killed; it is tried again, unless it was its second try")

    with (
        store.store_lock(f"tune-{candidate}", timeout=0),
        search.Search(
            name, storage=storage, space=space, plan=plan, baseline=initial(space, base), about=about
        ) as study,
        tracking.run(
            experiment=experiment,
            name=f"tune-{candidate}",
            params=what,
            tags={**tags, "study": name},
            resume=study.attributes.get("run_id"),
        ) as record,
    ):
        study.remember("run_id", record.id)
        study_files.point_at(candidate, study=name, n_trials=params.trials)
        record.log_dataset(experiment, data_digest, source=str(paths.prepared), counts=prepared.manifest["counts"])
        tracking.end_children(experiment, record.id)  # of a stage that was killed
        deadline = None if params.minutes is None else time.time() + 60 * params.minutes
        with (
            Workers(
                params.workers,
                backend=compute.backend if compute.backend in ("ray", "dask") else "loky",
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
        _draw(paths.report, rows=rows, scores=study.importance(), space=space, plan=plan, chosen=chosen.number)
        _write(paths.best, paths.report, rows=rows, chosen=chosen, values=better)
        record.log_metrics(summary(rows))
        record.set_tags({"chosen.trial": str(chosen.number), "chosen.reason": chosen.reason})
        record.log_artifact(paths.report)
        record.log_artifact(paths.best)
    say(f"tune: {candidate}: {chosen.reason}")


def checked_space(params: TuneParams, candidate: str, base: dict[str, Any]) -> Space:
    """Return the space of a candidate, after holding it against its section of train: what trial 0 has, and all edges.

    Raises:
        ParamsError: says which parameter does not fit, and what to do.
    """
    if candidate not in params.space:
        raise ParamsError(
            f"params.yaml: tune.space has no part for the candidate {candidate!r}; write `{candidate}: {{}}` to leave "
            "its values as they are"
        )
    with in_section(f"tune.space.{candidate}"):
        space = parse(params.space[candidate])
        initial(space, base)
        for where, values in edges(space):
            try:
                TrainParams.model_validate(overrides.apply(base, values))
            except ValidationError as error:
                raise ParamsError(f"{where}: {explain(f'train.{candidate}', TrainParams, error)}") from None
    with in_section("tune"):
        search_plan.check(params.plan(epochs=1), space)
    return space


def _check_trials(
    params: TuneParams,
    candidate: str,
    base: dict[str, Any],
    space: Space,
    prepared: Dataset,
    data: recipe.Data,
    features: Features,
) -> int:
    """Refuse a space with an edge that these data do not allow; return how many epochs a trial has at most.

    Raises:
        ParamsError: says which parameter, and what to do.
    """
    longest = 1
    for where, values in [(f"trial 0, train.{candidate}", {}), *edges(space)]:
        trial = shortened(overrides.apply(base, values), epochs=params.epochs)
        try:
            recipe.check(trial, data, image_shape=prepared.image_shape, features=features, fraction=params.fraction)
        except ParamsError as error:
            raise ParamsError(f"params.yaml: tune.space.{candidate}: {where}: {error}") from None
        longest = max(longest, recipe.n_epochs(trial))
    return longest


def _write(best: Path, report: Path, *, rows: list[TrialRow], chosen: Choice, values: dict[str, Any]) -> None:
    write_csv(rows, report / "trials.csv")
    said = {"trial": chosen.number, "reason": chosen.reason, "values": values}
    write_text(report / "chosen.json", json.dumps(said, indent=2) + "\n")
    # Nothing but the values: with equal ones the file is equal, and train does not run again.
    overrides.write(best, values, comment="what tune puts in place of values of params.yaml")


def _draw(
    folder: Path, *, rows: list[TrialRow], scores: dict[str, float], space: Space, plan: Plan, chosen: int | None
) -> None:
    from darkroom import figures_tuning

    logarithmic = {name for name, domain in domains(space).items() if isinstance(domain, Range) and domain.log}
    figures_tuning.history(rows, folder / "history.png")
    figures_tuning.curves(rows, folder / "curves.png")
    figures_tuning.slices(rows, folder / "slices.png", scores=scores, logarithmic=logarithmic)
    figures_tuning.importance(scores, folder / "importance.png")
    for cost in plan.objectives[1:]:
        limit = plan.limits.get(cost)
        figures_tuning.pareto(rows, cost, folder / "pareto.png", chosen=chosen, limit=limit)


if __name__ == "__main__":
    run(main)
