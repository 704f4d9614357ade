"""The study of a tuning: draw trials, and record how they end.

The coordinator (coordinator.py) has a Search, which alone draws and records trials. A worker has a Report (trial.py),
which records intermediate results and decides about pruning. Both use the same storage, so that nothing is lost with a
process. Besides samplers.py and storage.py only this module uses Optuna.
"""

import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

import optuna
import psutil
from optuna.storages import RDBStorage
from optuna.trial import Trial, TrialState

from darkroom.errors import LockedError, SearchError
from darkroom.project.text import redact
from darkroom.tuning.plan import Plan, grid_points
from darkroom.tuning.rows import COSTS, FINISHED, TrialRow
from darkroom.tuning.samplers import make_pruner, make_sampler, quiet
from darkroom.tuning.space.domains import Categorical, Domain, Space, draw
from darkroom.tuning.storage import open_storage, row_of, storage_errors

LEASE_SECONDS = 60  # after the last heartbeat of a process on another machine its study is free


@dataclass(frozen=True)
class Draw:
    """A trial to run: its number, and its overrides of the params, by dotted key."""

    number: int
    overrides: dict[str, Any]
    is_baseline: bool


@dataclass(frozen=True)
class Outcome:
    """The end of a trial: "complete" with metrics and answers, or "pruned", "failed" or "killed" with a reason.

    right: mask of the validation images that it got right; see answers.packed.
    """

    state: str
    metrics: Mapping[str, float]
    reason: str | None = None
    right: str = ""


class Search:
    """One study: draws trials and records how they ended in its storage. For one process at a time.

    A context manager that closes the storage. A study in which every trial failed is started again, because the cause
    may be gone.

    Args:
        name: of the study; an existing one is continued.
        storage: path of a journal file, URL of a database, or grpc://host:port of an Optuna proxy.
        space: what is searched.
        plan: how it is searched.
        baseline: the values of trial 0, returned by domains.initial.
        about: a digest of everything that makes trials comparable.
        rename: another name to suggest in the error below.

    Raises:
        SearchError: the storage does not answer, or has a different study of that name.
        LockedError: another process searches it.
    """

    def __init__(
        self,
        name: str,
        *,
        storage: str,
        space: Space,
        plan: Plan,
        baseline: Mapping[str, Any],
        about: str,
        rename: str,
    ) -> None:
        self.name, self._space, self._plan, self._storage = name, space, plan, storage
        self._owner, self._beaten = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}", 0.0
        self._open: dict[int, Trial] = {}
        self._ended: dict[int, TrialRow] = {}
        with ExitStack() as stack, storage_errors(storage), quiet():
            self._opened = open_storage(storage, create=True)
            stack.callback(self._close)
            self._study = self._create(about, rename)
            self._check_owner()
            self.beat()
            ended = {row.state for row in self.rows() if row.state in FINISHED}
            if ended == {"failed"}:
                optuna.delete_study(study_name=name, storage=self._opened)
                self._study = self._create(about, rename)
                self._ended.clear()
                self.beat(force=True)
            drawn = self._study.get_trials(deepcopy=False)
            if not drawn:
                self._study.enqueue_trial(dict(baseline), user_attrs={"baseline": True})
            # Depends on the number of earlier trials: with the same seed the sampler would draw the same ones again.
            self._study.sampler = make_sampler(plan, space, seed=plan.seed + len(drawn))
            stack.pop_all()
        self._points = None
        if plan.sampler == "grid":
            self._points = [point for point in grid_points(space, seed=plan.seed) if point != dict(baseline)]  # trial 0
        self._n_points_drawn = sum("grid" in trial.user_attrs for trial in drawn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with suppress(SearchError), storage_errors(self._storage):
            self._study.set_user_attr("owner", None)
        self._close()

    def _close(self) -> None:
        if isinstance(self._opened, RDBStorage):
            self._opened.remove_session()
            self._opened.engine.dispose()

    def _create(self, about: str, rename: str) -> optuna.Study:
        """Return the study; create it if it does not exist."""
        kinds = optuna.study.StudyDirection
        study = optuna.create_study(
            study_name=self.name,
            storage=self._opened,
            directions=[kinds.MINIMIZE if metric in COSTS else kinds.MAXIMIZE for metric in self._plan.objectives],
            load_if_exists=True,
            pruner=make_pruner(self._plan),
        )
        if study.user_attrs.get("about") not in (None, about):
            raise SearchError(
                f"the study {self.name!r} in {redact(self._storage)} was created with a different space, data, code or "
                f"settings; set tune.study to null, or to a new name such as {rename}"
            )
        study.set_user_attr("about", about)
        study.set_metric_names(list(self._plan.objectives))
        return study

    def _check_owner(self) -> None:
        """Refuse a study that another live process searches: each would treat the other's trials as lost."""
        held = self._study.user_attrs.get("owner")
        if held is None or time.time() - held["at"] > LEASE_SECONDS:
            return
        host, pid, _ = held["who"].split(":")
        if host == socket.gethostname() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            return
        raise LockedError(
            f"the study {self.name!r} in {redact(self._storage)} is in use by process {pid} on {host}; wait "
            f"until it ends (if it was killed: {LEASE_SECONDS} s), or set tune.study to another name"
        )

    def beat(self, *, force: bool = False) -> None:
        """Record a heartbeat of this process; call it every few seconds."""
        if force or time.monotonic() - self._beaten > LEASE_SECONDS / 4:
            self.remember("owner", {"who": self._owner, "at": time.time()})
            self._beaten = time.monotonic()

    @property
    def attributes(self) -> dict[str, Any]:
        """The values stored by remember()."""
        with storage_errors(self._storage):
            return self._study.user_attrs

    def remember(self, key: str, value: Any) -> None:
        """Store a JSON value with the study."""
        with storage_errors(self._storage):
            self._study.set_user_attr(key, value)

    def ask(self) -> Draw | None:
        """Return the next trial: a queued one (trial 0, or a retry), else one drawn by the sampler.

        None if a grid has no more points.
        """
        with storage_errors(self._storage), quiet():
            if self._points is not None and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                if self._n_points_drawn == len(self._points):
                    return None
                self._study.enqueue_trial(self._points[self._n_points_drawn], user_attrs={"grid": True})
                self._n_points_drawn += 1
            trial = self._study.ask()
            overrides = draw(self._space, lambda name, domain: _suggest(trial, name, domain))
        self._open[trial.number] = trial
        return Draw(trial.number, overrides, bool(trial.user_attrs.get("baseline")))

    def is_baseline_waiting(self) -> bool:
        """Return whether trial 0, or its retry, is queued."""
        with storage_errors(self._storage):
            waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return any(trial.user_attrs.get("baseline") for trial in waiting)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended.

        Samplers ignore trials that failed in Optuna's sense, and would draw similar values again. So a failed trial is
        recorded as complete, with the worst of all results.
        """
        trial = self._open[number]
        with storage_errors(self._storage), quiet():
            if outcome.state == "complete":
                trial.set_user_attr("metrics", dict(outcome.metrics))
                trial.set_user_attr("right", outcome.right)
                for metric, limit in self._plan.limits.items():
                    trial.set_constraint(metric, outcome.metrics[metric] - limit)
                self._study.tell(trial, [outcome.metrics[metric] for metric in self._plan.objectives])
            else:
                trial.set_user_attr("reason", outcome.reason or "unknown")
                if outcome.state == "pruned":
                    self._study.tell(trial, state=TrialState.PRUNED)
                else:
                    trial.set_user_attr("failed", True)
                    self._study.tell(trial, self._worst)
        del self._open[number]

    def lose(self, number: int, reason: str, *, is_own_doing: bool) -> None:
        """Mark a trial as killed, and queue a retry.

        Args:
            reason: why it was killed.
            is_own_doing: whether the trial itself may have killed its worker, for example by using all memory. Such a
                trial is tried only once more, and then recorded as the worst, unless it is trial 0, with which all
                others are compared.
        """
        self._open.pop(number, None)
        with storage_errors(self._storage):
            trials = self._study.get_trials(deepcopy=False)
            trial = next(trial for trial in trials if trial.number == number)
            said = trial.user_attrs
            n_deaths = said.get("n_deaths", 0) + is_own_doing
            again = {"retry_of": number, "n_deaths": n_deaths, "baseline": bool(said.get("baseline"))}
            is_queued = any(other.user_attrs.get("retry_of") == number for other in trials)
            is_hopeless = n_deaths >= 2 and not again["baseline"]
            # The retry first: a kill in between leaves the old one running, and it is marked again later.
            if not is_queued and not is_hopeless:
                self._study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params}, again)
            if trial.state == TrialState.RUNNING:
                for key, value in (("killed", True), ("reason", reason)):
                    # Study has no public method to mark a trial that another process has drawn.
                    self._study._storage.set_trial_user_attr(trial._trial_id, key, value)
                values, state = (self._worst, None) if is_hopeless else (None, TrialState.FAIL)
                self._study.tell(number, values, state, skip_if_finished=True)

    @property
    def _worst(self) -> list[float]:
        return [math.inf if metric in COSTS else 0.0 for metric in self._plan.objectives]

    def lose_open(self, reason: str) -> None:
        """Mark every trial as lost that was drawn here and has not ended."""
        for number in list(self._open):
            self.lose(number, reason, is_own_doing=False)

    def lose_running(self) -> list[int]:
        """Mark every running trial of a killed search as lost, and return their numbers."""
        lost = [row.number for row in self.rows() if row.state == "running" and row.number not in self._open]
        for number in lost:
            self.lose(number, "the search was killed", is_own_doing=False)
        return lost

    def rows(self) -> list[TrialRow]:
        """Return every trial, in the order of their numbers."""
        with storage_errors(self._storage):
            trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._ended:
                self._ended[trial.number] = row_of(trial)
        return [self._ended.get(trial.number) or row_of(trial) for trial in trials]

    def overrides(self, number: int) -> dict[str, Any]:
        """Return the overrides of a trial in any state, by dotted key."""
        params = self.rows()[number].params
        return draw(self._space, lambda name, _domain: params[name])

    def importance(self) -> dict[str, float]:
        """Return the share of each parameter in the variance of the validation accuracy (fANOVA, Hutter et al. 2014).

        The accuracy of failed trials counts as 0. Empty if too few trials are complete, or all are equally accurate.
        """
        with storage_errors(self._storage), quiet():
            complete = [t for t in self._study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
            if len({trial.values[0] for trial in complete}) < 2:
                return {}
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._plan.seed)
            try:
                found = optuna.importance.get_param_importances(
                    self._study, evaluator=evaluator, target=lambda trial: trial.values[0]
                )
            except (RuntimeError, ValueError):  # no varying parameter is common to all trials
                return {}
        return {name: float(share) for name, share in found.items()}


def _suggest(trial: Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Categorical):
        return trial.suggest_categorical(name, domain.labels)
    if domain.integer:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
