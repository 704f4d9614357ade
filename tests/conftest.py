"""Fixtures that several packages of tests share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.compute.local import thread_limits
from tests.support import postgres as postgres_server
from tests.support.project import ROOT, Project, clone

if "PYTEST_XDIST_WORKER" in os.environ:  # it shares the cores, and so do the processes that it starts
    os.environ.update(thread_limits(1))
    gc.disable()  # until the tests are collected, see below

# The files that take longest, longest first. The first worker to be free takes the next file: so none is left alone
# with a long one at the end, as long as xdist does not sort the files itself (--no-loadscope-reorder).
LONGEST = (
    "operations/test_retrain.py",
    "project/test_pipeline.py",
    "pipelines/test_tune.py",
    "registry/test_lock.py",
    "training/test_candidate.py",
    "compute/test_clusters.py",
    "pipelines/test_train.py",
    "pipelines/test_promote.py",
    "networks/backbones/test_extractor.py",
    "networks/runtime/test_device.py",
    "project/test_gpu_benchmark.py",
    "promotion/test_fair_comparison.py",
    "networks/architectures/test_architectures.py",
    "pipelines/test_embed.py",
    "pipelines/test_check.py",
    "tuning/test_coordinator.py",
    "project/test_consumer.py",
    "serving/test_server.py",
    "pipelines/test_evaluate.py",
    "training/test_fit.py",
    "tuning/test_trial.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first; the tests of each stay together and in their order."""
    tests = ROOT / "tests"
    places = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    # What importing the tests has made lives to the end. Frozen, it is not walked over by full collections, of which
    # Keras asks for many: 0.7 s of CPU time each.
    gc.freeze()
    gc.enable()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where a study may be kept; nothing is there yet."""
    return tmp_path / "s.journal"


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """A PostgreSQL server; tests that need it are skipped where its programs (Debian: postgresql) are not installed."""
    if postgres_server.program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with prepared data and one store for all tests of a module; each takes a name of its own."""
    from tests.support.trained_repository import fresh_store, prepare  # ONNX Runtime, which most tests do without

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        fresh_store(folder, patch)
        prepare(folder)
        yield folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with the smoke preset, committed."""
    project = clone(tmp_path_factory.mktemp("clone"))
    project.run("darkroom", "use", "smoke")
    (project.root / "dvc.lock").unlink(missing_ok=True)
    project.run("git", "commit", "--quiet", "--all", "--allow-empty", "--message", "use smoke")
    return project
