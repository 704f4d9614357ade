import itertools
import multiprocessing
import re
import threading
import time

import numpy as np
import pytest

from darkroom.errors import LockedError, RegistryError
from darkroom.files.writing import sha256_of
from darkroom.registry import aliases, ledger, lock, register, versions
from darkroom.tracking import runs, store
from tests.support.bare_versions import bare_versions
from tests.support.mlflow_server import running
from tests.support.promoters import promote_own
from tests.support.trained_repository import fresh_store, model_reading, prepare, train

pytestmark = pytest.mark.heavy
N_PROMOTERS = 8
SECONDS = 500  # a deadline for machines that do other work; 5 s are usual


@pytest.fixture(scope="module")
def processes():
    """Starts real processes that have MLflow imported already: 5 s each otherwise."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
    )
    return context


@pytest.fixture
def root(tmp_path, monkeypatch):
    fresh_store(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(its directory, its URI)"""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        fresh_store(folder, patch)
    with running(folder) as uri:
        yield folder, uri


def promote_at_once(processes, root, *, hosts):
    """Let eight processes promote one model each in the current store; with `hosts`, each from a repository of its own.

    Return what the registry says afterwards.
    """
    packages = []
    with runs.run(experiment="pets", name="train", params={}, tags={}) as run:
        for pixel in range(N_PROMOTERS):
            onnx = model_reading(pixel, root / f"{pixel}.onnx")
            packages.append((run.log_package(onnx), sha256_of(onnx)))
    started = []
    for number, (model_uri, sha256) in enumerate(packages):
        folder = root / f"host-{number}" if hosts else root
        folder.mkdir(exist_ok=True)
        arguments = (str(folder), store.tracking_uri(), "pets", number, model_uri, sha256, " ".join(packages[0]))
        started.append(processes.Process(target=promote_own, args=arguments))
    for process in started:
        process.start()
    deadline = time.monotonic() + SECONDS
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    failed = [path.read_text() for path in root.rglob("failed-*.txt")]
    assert [process.exitcode for process in started] == [0] * N_PROMOTERS, failed
    return versions.read("pets")


def has_one_line_of_champions(registered):
    assert sorted(registered.versions, key=int) == [str(number) for number in range(1, N_PROMOTERS + 1)]
    moves = registered.history()
    for alias in ("champion", "previous", "challenger"):
        path = [(move["from"], move["to"]) for move in moves if move["alias"] == alias]
        assert [start for start, _ in path] == [None, *(to for _, to in path[:-1])], alias
        assert path[-1][1] == registered.aliases.get(alias)
    reigns = [reign["version"] for reign in registered.reigns()]
    assert sorted(reigns, key=int) == sorted(registered.versions, key=int)
    assert registered.aliases["champion"] == reigns[-1]
    assert registered.aliases["previous"] == reigns[-2]
    assert [key for key in registered.tags if not key.startswith("history.")] == []


def test_eight_promoters_on_sqlite_leave_one_line_of_champions(root, processes):
    has_one_line_of_champions(promote_at_once(processes, root, hosts=False))


def test_eight_promoters_on_postgresql_leave_one_line(root, processes, postgres, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.database("promoters"))
    has_one_line_of_champions(promote_at_once(processes, root, hosts=True))
    with (
        lock.registry_lock("pets"),
        pytest.raises(LockedError, match="the registry of pets was held by another process for 0 s"),
        lock.registry_lock("pets", timeout=0.1),
    ):
        pass
    with lock.registry_lock("pets") as check:
        check()
        _end_other_connections(postgres, "promoters")
        with pytest.raises(RegistryError, match="the lock of pets was lost: .*; run the command again"):
            check()


def _end_other_connections(postgres, database):
    import psycopg

    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])


class Stepping:
    """An MLflow client that calls `before_call` with the number of each call, from 0, before it is made."""

    def __init__(self, opened, before_call):
        self._client = opened
        self._before_call = before_call
        self._numbers = itertools.count()

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*arguments, **named):
            self._before_call(next(self._numbers))
            return method(*arguments, **named)

        return call


def promote_while_another_does(monkeypatch, folder, decided, first_stops, second_stops):
    """Let two hosts promote through the server, each one of the two versions that were decided against version 1.

    The first stops before its call `first_stops` to the store; there the second begins, and stops before its call
    `second_stops` until the first has ended.

    Return the errors of both, and whether the second stopped.
    """
    begun, resumed, stopped, errors = (
        threading.Event(),
        threading.Event(),
        threading.Event(),
        list[RegistryError | None]([None, None]),
    )
    opened = store.client()

    def promote(number, before_call):
        monkeypatch.setenv("DVC_ROOT", str(folder / f"host-{number}"))  # the lock file of one is not the other's
        monkeypatch.setattr(ledger, "client", lambda: Stepping(opened, before_call))
        try:
            aliases.promote(decided[number], replacing="1", reasons=["better"])
        except RegistryError as error:
            errors[number] = error

    def before_call_of_second(call):
        if call == second_stops:
            stopped.set()
            begun.set()
            resumed.wait(SECONDS)

    def second():
        promote(1, before_call_of_second)
        begun.set()

    def before_call_of_first(call):
        if call == first_stops:
            thread.start()
            begun.wait(SECONDS)

    thread = threading.Thread(target=second)
    promote(0, before_call_of_first)
    resumed.set()
    thread.join()
    monkeypatch.setattr(ledger, "client", lambda: opened)
    return errors, stopped.is_set()


@pytest.mark.parametrize(  # before its sixth call it has moved the last alias
    "first_stops", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5)), 5]
)
def test_of_two_hosts_that_promote_one_at_most_succeeds(server, monkeypatch, first_stops):
    folder, uri = server
    for second_stops in itertools.count():
        name = f"met-{first_stops}-{second_stops}"
        monkeypatch.setenv("DVC_ROOT", str(folder))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # a server takes no versions in directories of ours
        first, *decided = bare_versions(folder, name, 3)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        aliases.promote(first, replacing=None, reasons=["the first"])
        errors, stopped = promote_while_another_does(monkeypatch, folder, decided, first_stops, second_stops)
        winners = [version.version for version, error in zip(decided, errors, strict=True) if error is None]
        assert len(winners) < 2
        for error in filter(None, errors):
            assert re.fullmatch(
                f"{name}: (another process is changing the registry; let one host promote, check "
                "`darkroom history`, and run the command again|the champion is now version 2, but the decision was "
                "made "
                "against 1; run `dvc repro promote` again)",
                str(error),
            )
        aliases.settle(name)
        champion = versions.read(name).aliases["champion"]
        assert champion in (winners or ["1", "2", "3"])
        aliases.promote(decided[0], replacing=champion, reasons=["again"])
        found = versions.read(name)
        assert (found.aliases["champion"], ledger.unrecorded(found), found.unfinished) == ("2", [], None)
        if not stopped:
            break


def test_a_server_does_all_that_a_local_store_does(server, monkeypatch):
    folder, uri = server
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(folder)
    prepare(folder)
    aliases.promote(_registered(folder, 0, name="local"), replacing=None, reasons=["a"])
    direct = versions.read("local")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert versions.read("local") == direct
    version = _registered(folder, 1, name="remote")  # the experiment is new: its artifacts go through the server
    aliases.challenge(version, replacing=None, reasons=["a"])
    aliases.promote(version, replacing=None, reasons=["b"])
    found = versions.find("remote", alias="champion")
    file = versions.fetch(found)
    assert found.location.startswith("mlflow-artifacts:")
    assert file == folder / ".darkroom/models/remote/1/artifacts/model.onnx"
    images = np.load(folder / "data/prepared/images-00000.npy")
    assert register.verify(found, images, versions.load(found).probabilities(images)) < 1e-6
    assert [move["to"] for move in versions.read("remote").history()] == ["1", "1"]
    assert versions.damage(found) == []
    kept = folder / "remote" / found.location.partition(":/")[2].lstrip("/") / "code" / "package.py"
    kept.write_text("changed")
    assert versions.damage(found) == ["code/package.py was changed after registration"]
    with pytest.raises(RegistryError, match="no model is registered as 'nothing'"):
        versions.find("nothing", alias="champion")


def _registered(root, reads, name):
    uri = train(root, reads=reads, experiment=name)
    return register.register(
        name, model_uri=uri, model_sha256=sha256_of(root / "models/cnn/model.onnx"), tags={"candidate": "cnn"}
    )
