import hashlib
import shutil
import sqlite3
import sys

import pytest

from darkroom.errors import RegistryError
from darkroom.operations import gc
from darkroom.registry import aliases, check, register, versions
from darkroom.tracking import artifacts, experiments, runs, store
from pipelines import promote
from tests.support.trained_repository import answers_here, fresh_store, prepare, train

pytestmark = pytest.mark.heavy
ARGUMENTS = "--evaluation reports/evaluation.json --predictions reports/predictions.parquet --raw data/raw "
ARGUMENTS += "--incoming data/incoming "
ARGUMENTS += "--prepared data/prepared --models models --out reports/promotion.json "
ARGUMENTS += "--page reports/evaluation.html --report reports/report.html"


def work_in(root, monkeypatch):
    """Do what follows in another repository, as a new process does that has no MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(root)


@pytest.fixture
def original(tmp_path, monkeypatch):
    """A repository with two versions, the second is champion; the path has what URIs write otherwise."""
    root = tmp_path / "my repository ä"
    root.mkdir()
    fresh_store(root, monkeypatch)
    prepare(root)
    monkeypatch.setattr(register, "verify", answers_here)
    monkeypatch.setattr(sys, "argv", ["promote", *ARGUMENTS.split()])
    for reads in (4, 2):
        train_and_promote(root, reads)
    return root


def train_and_promote(root, reads):
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("min_test_accuracy: 0.9", "min_test_accuracy: 0.5"))
    train(root, reads=reads)
    promote.main()


def files_of(root):
    """Every file with its digest, but locks."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_sound(root, name="pets"):
    """Everything that the store records lies in the repository, and whole."""
    assert check.check(name) == []
    opened = store.client()
    places = [
        experiment.artifact_location for experiment in opened.search_experiments() if experiment.name != "Default"
    ]
    ids = [experiment.experiment_id for experiment in opened.search_experiments()]
    places += [run.info.artifact_uri for run in opened.search_runs(ids)]
    places += [model.artifact_location for model in opened.search_logged_models(ids)]
    places += [opened.get_model_version_download_uri(name, number) for number in versions.read(name).versions]
    assert [place for place in places if not place.startswith(f"{root.as_uri()}/mlartifacts/")] == []
    return len(places)


def refuses_to_write(root):
    before = files_of(root)
    expected = r"mlflow.db was copied or moved: its artifacts are recorded in file://.*/mlartifacts/pets, .*--repair"
    for write in (
        lambda: train(root, reads=0),
        lambda: experiments.connect("another experiment"),
        lambda: aliases.rollback("pets", reason="bad"),
        lambda: gc.plan(root, name="pets", keep=1, days=0),
    ):
        with pytest.raises(RegistryError, match=expected):
            write()
    after = files_of(root)
    assert before.items() - after.items() <= {item for item in before.items() if "models/cnn" in str(item[0])}


def test_a_copy_works_on_its_own_and_leaves_the_original_alone(original, tmp_path, monkeypatch):
    before, copy = files_of(original), tmp_path / "copy"
    shutil.copytree(original, copy)
    work_in(copy, monkeypatch)
    champion = versions.find("pets", alias="champion")
    assert champion.location.startswith(copy.as_uri()), "a copy answers with its own files before it is repaired"
    promote.main()
    refuses_to_write(copy)
    assert [finding.kind for finding in check.repair("pets")] == ["misplaced"]
    assert is_sound(copy) == 7
    for reads in (1, 0):
        train_and_promote(copy, reads)
    gc.remove(gc.plan(copy, name="pets", keep=1, days=0), keep=1)
    assert is_sound(copy) > 7
    work_in(original, monkeypatch)
    assert files_of(original) == before
    assert is_sound(original) == 7


def test_a_moved_repository_continues_where_it_is(original, tmp_path, monkeypatch):
    moved = original.rename(tmp_path / "moved")
    work_in(moved, monkeypatch)
    promote.main()
    refuses_to_write(moved)
    check.repair("pets")
    assert is_sound(moved) == 7
    train_and_promote(moved, 0)
    assert is_sound(moved) == 10
    assert versions.read("pets").aliases["champion"] == "3"
    assert not original.exists()
    assert artifacts.misplaced() == {}


def test_what_a_copy_wrote_to_the_original_comes_back(original, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    version = versions.find("pets", version="2")
    lost = copy / versions.fetch(version).parents[1].relative_to(original)
    shutil.rmtree(lost)
    work_in(copy, monkeypatch)
    check.repair("pets")
    assert is_sound(copy) == 7
    assert lost.is_dir()


def test_a_copy_of_artifacts_that_was_cut_short_is_made_again(original, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    files = versions.fetch(versions.find("pets", version="2")).parents[1]
    lost, unreadable = copy / files.relative_to(original), files / "unreadable"
    shutil.rmtree(lost)
    unreadable.symlink_to("nowhere")
    work_in(copy, monkeypatch)
    for _ in range(2):
        with pytest.raises(shutil.Error, match="unreadable"):
            check.repair("pets")
        assert not lost.exists()
    unreadable.unlink()
    check.repair("pets")
    assert is_sound(copy) == 7
    assert files_of(lost) == files_of(files)
    assert not list(lost.parent.glob("*.part"))


def test_a_store_seen_through_a_link_is_in_its_place(original, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(original)
    link = str(tmp_path / "link" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{link}")
    assert artifacts.misplaced() == {}
    train(original, reads=0)


def test_a_copy_leaves_a_registry_that_both_use_as_it_is(original, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/registry.db")
    shutil.copy(original / "mlflow.db", tmp_path / "registry.db")
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    work_in(copy, monkeypatch)
    monkeypatch.setattr("mlflow.set_registry_uri", lambda _: None)  # it lasts for the process
    artifacts.relocate()
    assert artifacts.misplaced() == {}
    with sqlite3.connect(tmp_path / "registry.db") as registry:
        recorded = [place for (place,) in registry.execute("SELECT storage_location FROM model_versions")]
    assert [place for place in recorded if not place.startswith(f"{original.as_uri()}/")] == []


def test_gc_leaves_what_lies_outside_the_repository(original, tmp_path, monkeypatch):
    train_and_promote(original, 0)
    before = files_of(original / "mlartifacts")
    work_in(tmp_path, monkeypatch)
    database = str(original / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    plan = gc.plan(tmp_path / "other", name="pets", keep=1, days=0)
    assert (plan.waste, plan.n_outside) == ([], 2), "version 1 and its run"
    gc.remove(plan, keep=1)
    assert files_of(original / "mlartifacts") == before


def test_a_moved_repository_on_postgresql_is_relocated(original, postgres, tmp_path, monkeypatch):
    uri = postgres.database("moved")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with runs.run(experiment="elsewhere", name="a", params={}, tags={}):
        pass
    other = tmp_path / "other"
    shutil.move(original / "mlartifacts" / "elsewhere", other)  # of this experiment nothing is on this host any more
    for reads in (4, 2):
        train_and_promote(original, reads)
    moved = original.rename(tmp_path / "moved")
    work_in(moved, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        RegistryError, match="'pets' .* keeps its artifacts in file:.*does not exist on this machine; m"
    ):
        train(moved, reads=0)
    kinds = [finding.kind for finding in check.check("pets")]
    assert kinds == ["misplaced", "files", "files"]
    check.repair("pets")
    assert check.check("pets") == []
    train_and_promote(moved, 0)
    assert versions.fetch(versions.find("pets", alias="champion")).is_relative_to(moved)
    with pytest.raises(RegistryError, match="'elsewhere' .* mount it here at the same path, let an MLflow server keep"):
        experiments.connect("elsewhere")


def test_a_second_host_of_a_database_is_told_what_it_lacks(original, postgres, tmp_path, monkeypatch):
    uri = postgres.database("hosts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    train_and_promote(original, 4)
    original.rename(tmp_path / "first host")
    for root in (original, tmp_path / "another place"):  # the second host may have its repository at the same path
        root.mkdir()
        work_in(root, monkeypatch)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(
            RegistryError, match="'pets' .* which does not exist on this machine; mount it here at the "
        ):
            experiments.connect("pets")
        assert artifacts.misplaced() == {}
        [finding] = check.repair("pets")
        assert (finding.kind, finding.repairable) == ("files", False)
        assert finding.sentence.endswith(
            "is missing; mount it on this machine at the same path, or restore it from a backup"
        )
