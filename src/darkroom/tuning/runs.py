"""The MLflow runs of a tuning: one of the search, a child per trial, and closing those of killed processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from darkroom.errors import DataError, LockedError
from darkroom.project import locks
from darkroom.tracking import runs
from darkroom.tracking.record import Run
from darkroom.tuning import location
from darkroom.tuning.study import Search


@contextmanager
def parent_run(
    study: Search, *, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Run]:
    """Open the run of a search: that of the study, if the store still has it."""
    earlier = study.attributes.get("run_id")
    with runs.run(experiment=experiment, name=name, params=params, tags=tags, resume=earlier) as record:
        study.remember("run_id", record.id)
        yield record


@contextmanager
def children_closed(record: Run, *, experiment: str) -> Iterator[None]:
    """Close the child runs that workers left open when the block ends; the workers must have ended by then."""
    try:
        yield
    finally:
        runs.end_open(experiment, tags={runs.PARENT: record.id})


def close_trial(number: int, *, study: str, experiment: str) -> None:
    """Close the run of a trial whose worker is dead."""
    runs.end_open(experiment, tags={"study": study, "trial": str(number)})


def close_earlier(candidate: str, *, study: str, experiment: str) -> None:
    """Close the runs that a killed search left open, of this study and of the candidate's previous one."""
    runs.end_open(experiment, tags={"study": study})
    with suppress(DataError, LockedError):  # there was none, or its search is running
        earlier = location.pointed_at(candidate)["study"]
        if earlier != study:
            with locks.store_lock(f"tune-{earlier}", timeout=0):
                runs.end_open(experiment, tags={"study": earlier})
