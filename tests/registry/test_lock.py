import multiprocessing
import threading
import time

import numpy as np
import pytest

from darkroom.errors import LockedError, RegistryError
from darkroom.files.writing import sha256_of
from darkroom.registry import aliases, lock, register, versions
from darkroom.tracking import runs, store
from tests.support.mlflow_server import running
from tests.support.promoters import promote_own
from tests.support.trained_repository import fresh_store, model_reading, prepare, train

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
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
    """(its folder, its URI)"""
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


def test_eight_promoters_on_a_sqlite_file_leave_one_line_of_champions(root, processes):
    has_one_line_of_champions(promote_at_once(processes, root, hosts=False))


def test_eight_promoters_on_postgresql_leave_one_line_of_champions(root, processes, postgres, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.database("promoters"))
    has_one_line_of_champions(promote_at_once(processes, root, hosts=True))
    opened = store.client()
    with (
        lock.registry_lock("pets", opened),
        pytest.raises(LockedError, match="the registry of pets was held by another process for 0 s"),
        lock.registry_lock("pets", opened, timeout=0.1),
    ):
        pass
    with lock.registry_lock("pets", opened) as check:
        check()
        _end_other_connections(postgres, "promoters")
        with pytest.raises(RegistryError, match="the lock of pets is lost: .*; run the same again"):
            check()


def _end_other_connections(postgres, database):
    import psycopg

    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])


def test_eight_promoters_through_a_server_leave_one_line_of_champions(root, processes, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    has_one_line_of_champions(promote_at_once(processes, root, hosts=True))


def test_a_server_with_remote_artifacts_does_all_that_a_local_store_does(server, monkeypatch):
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


def test_the_claim_of_a_dead_process_is_removed_after_a_while(server, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(server[0]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    monkeypatch.setattr(lock, "EXPIRY_SECONDS", 12.0)
    opened = store.client()
    opened.create_registered_model("left")
    dead = lock._Claim("left", opened)
    dead.take(timeout=60)
    with (
        pytest.raises(LockedError, match=r"the registry of left was held by .*@.* \(process \d+\) for 0 s"),
        lock.registry_lock("left", opened, timeout=0.1),
    ):
        pass
    with lock.registry_lock("left", opened) as check:
        check()
    with pytest.raises(RegistryError, match="the lock of left is lost: this process was stopped for too long"):
        dead.check()


def test_those_who_wait_are_served_in_the_order_in_which_they_came(server, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(server[0]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    opened = store.client()
    opened.create_registered_model("queue")
    served = []
    first, *others = (lock._Claim("queue", opened) for _ in range(3))
    first.take(timeout=SECONDS)

    def wait(number, claim):
        claim.take(timeout=SECONDS)
        served.append(number)
        claim.remove()

    threads = [threading.Thread(target=wait, args=entry) for entry in enumerate(others)]
    for n_waiting, thread in enumerate(threads, start=1):
        thread.start()
        while sum(claim["number"] is not None for claim in first._claims().values()) < n_waiting + 1:
            time.sleep(0.05)
    first.check()
    first.remove()
    for thread in threads:
        thread.join()
    assert served == [0, 1]
    assert first._claims() == {}


def _registered(root, reads, name):
    uri = train(root, reads=reads, experiment=name)
    return register.register(
        name, model_uri=uri, model_sha256=sha256_of(root / "models/cnn/model.onnx"), tags={"candidate": "cnn"}
    )
