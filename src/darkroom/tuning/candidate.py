"""Tune one candidate: a search with an MLflow run, a child run per trial, and its output files."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from darkroom.compute.local import visible_gpus
from darkroom.compute.workers import Workers
from darkroom.deployable.machine import usable_cores
from darkroom.project.console import say
from darkroom.project.locks import store_lock
from darkroom.project.params import digest
from darkroom.project.text import in_short
from darkroom.tracking import provenance
from darkroom.tracking.experiments import connect
from darkroom.tracking.record import Run
from darkroom.tracking.store import tracking_uri
from darkroom.training import overrides
from darkroom.training.opened import Opened
from darkroom.training.recipe import Recipe, transfer_mode
from darkroom.tuning import confirmation, coordinator, location, report, trial
from darkroom.tuning.choice import ChosenTrial, choose, summary
from darkroom.tuning.plan import Plan
from darkroom.tuning.progress import SearchProgress
from darkroom.tuning.rows import TrialRow, n_finished
from darkroom.tuning.runs import children_closed, close_earlier, close_trial, parent_run
from darkroom.tuning.space.domains import Space, initial
from darkroom.tuning.study import Draw, Search

# The sources of a trial, as in dvc.yaml; a change of other files does not discard a study.
SEARCHED = (
    *("errors.py", "project", "files", "compute", "figures", "data/arrays", "data/fetching", "deployable"),
    *("evaluation/metrics", "networks", "tracking", "training", "tuning"),
)

AS_GIVEN = "params.yaml"  # in the name of a trial without changes


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The budget of a search.

    Attributes:
        trials: number of finished trials, including those of earlier calls.
        minutes: after which no trial begins; None: no limit.
        epochs: maximum per phase of a trial; None: as many as `train` has.
        fraction: of the training images.
    """

    trials: int
    minutes: float | None
    epochs: int | None
    fraction: float


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of a search; see the sections compute and tune of params.yaml."""

    device: str
    backend: str
    cluster: str | None
    workers: int | Literal["auto"]
    cpus: int | Literal["auto"]
    gpus: float
    max_worker_bytes: int | None

    def places(self, n_trainings: int) -> Workers:
        """Return the workers for n_trainings; "auto": one per GPU, or per `cpus` cores, or what a Ray cluster has."""
        n, cpus = self.workers, None if self.cpus == "auto" else self.cpus
        if n == "auto" and self.backend != "ray":
            gpus = [] if self.device == "cpu" else visible_gpus()
            n = len(gpus) or max(1, usable_cores() // (cpus or 1))
        return Workers(
            n if n == "auto" else min(n, n_trainings),
            backend="ray" if self.backend == "ray" else "loky",
            cpus=cpus,
            gpus=self.gpus,
            address=self.cluster,
        )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The search of better values for one candidate.

    Attributes:
        candidate: a section of train.
        base: that section, the values of trial 0.
        space, plan: what is searched, and how.
        settings: those of the section tune that affect the result; other values begin a new study.
        opened: the data.
        folders: prepared, augmented and features, which every worker opens again.
        budget, resources: limits of the search, and what it runs on.
        alpha: see choose().
        confirm: whether to confirm the choice at full length, or the maximum minutes for that.
        study: the first part of the study's name; None: derived from space, data, code and settings.
        storage: of the study; None: see location.storage_of.
        stage: the source file of the calling stage, which affects the result as SEARCHED does.
    """

    candidate: str
    base: Recipe
    space: Space
    plan: Plan
    settings: Mapping[str, Any]
    opened: Opened
    folders: Mapping[str, Path]
    budget: Budget
    resources: Resources
    alpha: float
    confirm: bool | float
    study: str | None
    storage: str | None
    stage: Path

    def run(self, best: Path, folder: Path) -> ChosenTrial:
        """Search until the budget is spent, write best.yaml and the report into folder, and return the choice.

        Raises:
            LockedError: the candidate is being tuned by another process.
            RegistryError: MLflow's store does not answer.
            SearchError: the storage does not answer, has another study of this name, or workers keep dying.
            TrainingError: every trial failed.
        """
        experiment, about = self._experiment, self._about()
        name = f"{self.study or experiment}-{self.candidate}" + ("" if self.study else f"-{about[:12]}")
        tags = provenance.lineage_tags(
            data_digest=self._data_digest, params_digest=digest(self.base), candidate=self.candidate
        )
        tags["study"] = name
        connect(experiment)  # fails before the search if the server does not answer
        with (
            store_lock(f"tune-{name}", timeout=0),
            Search(
                name,
                storage=location.storage_of(self.storage, study=name),
                space=self.space,
                plan=self.plan,
                baseline=initial(self.space, self.base),
                about=about,
                rename=f"{self.study}-{about[:8]}",
            ) as search,
        ):
            close_earlier(self.candidate, study=name, experiment=experiment)
            location.point_at(self.candidate, study=name, n_trials=self.budget.trials)
            with parent_run(
                search, experiment=experiment, name=f"tune-{self.candidate}", params=self.settings, tags=tags
            ) as record:
                data = self.opened.prepared
                record.log_dataset(
                    experiment, self._data_digest, source=str(data.directory), counts=data.manifest["counts"]
                )
                with children_closed(record, experiment=self._experiment):
                    self._search(search, record, tags=tags)
                    rows = search.rows()
                    chosen = self._choice(search, rows, record, tags=tags)
                values = {} if chosen.number is None else search.overrides(chosen.number)
                self._report(search, rows, chosen, values, best=best, folder=folder)
                record.log_metrics(summary(rows))
                shown = "none" if chosen.number is None else str(chosen.number)
                record.set_tags({"chosen.trial": shown, "chosen.reason": chosen.reason})
                record.note("Choice", chosen.reason)
                record.log_artifact(folder)
                record.log_artifact(best)
            location.point_at(self.candidate, study=name, n_trials=n_finished(rows), values=values)
        return chosen

    @property
    def _experiment(self) -> str:
        return str(self.opened.prepared.manifest["dataset"])

    @property
    def _data_digest(self) -> str:
        return digest(list(self.opened.digests.values()))

    def _as_trial(self, recipe: Recipe) -> Recipe:
        return trial.as_trial(recipe, epochs=self.budget.epochs)

    def _about(self) -> str:
        """Return a digest of everything that makes trials comparable."""
        features = self.opened.features if transfer_mode(self.base) else None
        inputs = [self._data_digest, features.digest if features else None, digest(self._as_trial(self.base))]
        code = [provenance.source_digest(SEARCHED), self.stage.read_text()]
        return digest([self.settings, inputs, code, provenance.versions((*provenance.PACKAGES, "optuna"))])

    def _search(self, search: Search, record: Run, *, tags: Mapping[str, str]) -> None:
        """Run the trials."""
        budget, candidate = self.budget, self.candidate
        deadline = None if budget.minutes is None else time.time() + 60 * budget.minutes
        first = self._first_task(search, record, tags=tags)

        def task_of(drawn: Draw) -> trial.Task:
            return replace(
                first,
                number=drawn.number,
                name=f"trial-{drawn.number} {in_short(drawn.overrides) or AS_GIVEN}",
                recipe=self._as_trial(overrides.apply(self.base, drawn.overrides)),
                tags={**tags, "trial": str(drawn.number)},
                deadline=None if drawn.is_baseline else deadline,  # other trials are compared with trial 0
            )

        def on_lost(number: int) -> None:
            close_trial(number, study=search.name, experiment=self._experiment)
            say(f"tune: {candidate}: trial {number} was killed")

        with self.resources.places(budget.trials) as workers, SearchProgress(budget.trials) as progress:
            say(f"tune: {candidate}: {budget.trials} trials on {workers.n} workers; study {search.name}")
            coordinator.run(
                search,
                workers,
                function=trial.run,
                task_of=task_of,
                n_trials=budget.trials,
                deadline=deadline,
                max_worker_bytes=self.resources.max_worker_bytes,
                on_lost=on_lost,
                on_change=progress.on_change,
            )

    def _first_task(self, search: Search, record: Run, *, tags: Mapping[str, str]) -> trial.Task:
        return trial.Task(
            number=0,
            name=f"trial-0 {AS_GIVEN}",
            study=search.name,
            storage=location.storage_of(self.storage, study=search.name),
            plan=self.plan,
            recipe=self._as_trial(self.base),
            fraction=self.budget.fraction,
            **{name: folder.resolve() for name, folder in self.folders.items()},
            device=self.resources.device,
            measured=tuple(sorted({*self.plan.objectives[1:], *self.plan.limits})),
            experiment=self._experiment,
            parent_run=record.id,
            tracking_uri=tracking_uri(),
            tags=tags,
            deadline=None,
        )

    def _choice(self, search: Search, rows: list[TrialRow], record: Run, *, tags: Mapping[str, str]) -> ChosenTrial:
        """Return the choice, confirmed if params.yaml allows the time."""
        objectives, alpha = self.plan.objectives, self.alpha
        chosen = choose(rows, objectives=objectives, alpha=alpha)
        if chosen.number is None or chosen.against is None or self.confirm is False:
            return chosen
        first = self._first_task(search, record, tags=tags)

        def task_of(number: int) -> trial.Task:
            drawn = search.overrides(number)
            recipe = overrides.apply(self.base, drawn)
            return replace(
                first,
                number=number,
                name=f"confirm-{number} {in_short(drawn) or AS_GIVEN}",
                recipe={**recipe, "seed": recipe["seed"] + 1, "calibration": "none"},
                fraction=1.0,
                measured=(),
            )

        tasks = [task_of(number) for number in confirmation.contenders(chosen, rows)]
        minutes = {
            task.number: confirmation.full_minutes(
                rows[task.number], full=task.recipe, short=self._as_trial(task.recipe), fraction=self.budget.fraction
            )
            for task in tasks
        }
        return confirmation.confirm(
            chosen,
            search=search,
            tasks=tasks,
            minutes=minutes,
            limit=math.inf if self.confirm is True else self.confirm,
            workers=self.resources.places,
            alpha=alpha,
        )

    def _report(
        self,
        search: Search,
        rows: list[TrialRow],
        chosen: ChosenTrial,
        values: dict[str, Any],
        *,
        best: Path,
        folder: Path,
    ) -> None:
        """Write the results of the search."""
        scores = search.importance()
        report.draw(folder, rows=rows, scores=scores, space=self.space, plan=self.plan, chosen=chosen.number)
        report.write(best, folder, rows=rows, chosen=chosen, values=values)
