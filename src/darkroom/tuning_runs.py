"""The runs of a tuning in MLflow: one of the search, a child of each trial, and none left open by what was killed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from darkroom import store, study_files, tracking
from darkroom.errors import DataError, LockedError
from darkroom.search import Search


@contextmanager
def parent_run(
    study: Search, *, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[tracking.Run]:
    """Open the run of a search: the study's, if it has one that the store still knows."""
    earlier = study.attributes.get("run_id")
    with tracking.run(experiment=experiment, name=name, params=params, tags=tags, resume=earlier) as record:
        study.remember("run_id", record.id)
        yield record


@contextmanager
def children_closed(record: tracking.Run, *, experiment: str) -> Iterator[None]:
    """Close what workers left open, when the block ends: in it they have to end, too."""
    try:
        yield
    finally:
        tracking.end_open(experiment, tags={tracking.PARENT: record.id})


def close_trial(number: int, *, study: str, experiment: str) -> None:
    """Close the run of a trial whose worker is dead."""
    tracking.end_open(experiment, tags={"study": study, "trial": str(number)})


def close_earlier(candidate: str, *, study: str, experiment: str) -> None:
    """Close the runs of this study, and of the candidate's study before it, that a killed search left open."""
    tracking.end_open(experiment, tags={"study": study})
    with suppress(DataError, LockedError):  # there was none before, or it is being searched right now
        earlier = study_files.pointed_at(candidate)["study"]
        if earlier != study:
            with store.store_lock(f"tune-{earlier}", timeout=0):
                tracking.end_open(experiment, tags={"study": earlier})
