"""The workers of a search; searches themselves are in tests/pipelines/test_tune.py."""

from typing import Any

import pytest

from darkroom.tuning import candidate

RESOURCES: dict[str, Any] = {
    "device": "auto",
    "backend": "local",
    "cluster": None,
    "gpus": 0.0,
    "max_worker_bytes": None,
}


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "n_places"),
    [
        ("auto", "auto", "", 4),
        ("auto", 8, "", 2),
        ("auto", 99, "", 1),
        ("auto", "auto", "0,1,2", 3),
        (3, "auto", "0", 3),
        (8, "auto", "", 4),
    ],
)
def test_there_are_no_more_workers_than_cores_gpus_or_trainings(
    workers: Any, cpus: Any, gpus: str, n_places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "usable_cores", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    with candidate.Resources(**RESOURCES, workers=workers, cpus=cpus).places(4) as opened:
        assert opened.n == n_places
