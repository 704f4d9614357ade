import itertools
import shutil
import subprocess
import sys
import time

import pytest

from darkroom.deployable.code_files import IMPORTED
from darkroom.errors import RegistryError
from darkroom.files.writing import sha256_of
from darkroom.registry import aliases, check, register, versions
from darkroom.tracking import runs, store
from tests.support.bare_versions import bare_versions
from tests.support.trained_repository import clean_environment, train

pytestmark = pytest.mark.heavy
names = (f"pets-{number}" for number in itertools.count())


def kinds(name):
    return [finding.kind for finding in check.check(name)]


def test_versions_without_an_alias_or_a_decision_are_fine(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 2)
    assert kinds(name) == []
    assert kinds("nobody registered this") == []


def test_a_waiting_challenger_is_fine_a_hopeless_one_is_not(shared_store):
    name = next(names)
    first, second, _ = bare_versions(shared_store, name, 3)
    aliases.promote(first, replacing=None, reasons=["a"])
    aliases.challenge(second, replacing="1", reasons=["b"])
    assert kinds(name) == []
    opened = store.client()
    opened.set_registered_model_alias(name, "champion", "3")
    assert kinds(name) == ["unrecorded", "stale challenger"]
    check.repair(name)
    assert kinds(name) == []
    assert "challenger" not in versions.read(name).aliases
    opened.set_registered_model_alias(name, "challenger", "2")
    opened.set_model_version_tag(name, "2", "rolled_back", "bad")
    assert kinds(name) == ["unrecorded", "stale challenger"]


def test_missing_and_changed_and_added_files_are_named(shared_store):
    name = next(names)
    first, *_ = bare_versions(shared_store, name, 3)
    aliases.promote(first, replacing=None, reasons=["a"])
    folder = shared_store / "bare" / name
    (folder / "1" / "artifacts" / "model.onnx").write_text("changed")
    (folder / "1" / "code" / "package.py").unlink()
    (folder / "1" / "code" / "numpy.py").write_text("")
    (folder / "1" / "code" / "__pycache__").mkdir()
    (folder / "1" / "code" / "__pycache__" / "package.cpython-311.pyc").write_bytes(b"Python's own")
    shutil.rmtree(folder / "2")
    found = check.check(name)
    assert not any(finding.repairable for finding in found)
    assert [finding.sentence.partition(";")[0] for finding in found] == [
        "version 1 (champion): code/package.py is missing",
        "version 1 (champion): code/numpy.py was added after registration",
        "version 1 (champion): artifacts/model.onnx was changed after registration",
        f"version 2: its directory {folder / '2'} is missing",
    ]
    assert check.repair(name) == check.check(name)
    lost = {"artifacts/model.onnx": folder / "1/artifacts/model.onnx", "code/package.py": folder / "1/code/package.py"}
    assert versions.lost_files(first) == lost


@pytest.mark.parametrize("path", ["artifacts/model.onnx", "code/package.py"])
def test_a_tampered_file_is_refused_by_name_before_it_is_used(shared_store, path):
    name = next(names)
    train(shared_store, reads=0, experiment=name)
    uri = train(shared_store, reads=0, experiment=name)
    version = register.register(
        name, model_uri=uri, model_sha256=sha256_of(shared_store / "models/cnn/model.onnx"), tags={}
    )
    versions.load(version)
    assert versions.damage(version) == []
    file = versions.fetch(version, path)
    file.write_bytes(file.read_bytes() + b"\nraise SystemExit\n")
    with pytest.raises(RegistryError, match=rf"{path} has sha256 .* it was changed after registration and is not load"):
        versions.load(version)
    assert versions.damage(version) == [f"{path} was changed after registration"]


def test_loading_a_version_leaves_its_folder_as_it_was(shared_store):
    name = next(names)
    uri = train(shared_store, reads=1, experiment=name)
    version = register.register(
        name, model_uri=uri, model_sha256=sha256_of(shared_store / "models/cnn/model.onnx"), tags={}
    )
    versions.load(version)
    code = versions.fetch(version, "code/package.py")
    assert {path.name for path in code.parent.iterdir()} == {"package.py", *IMPORTED}


def test_a_model_whose_files_were_deleted_is_registered_again(shared_store):
    name = next(names)
    uri = train(shared_store, reads=0, experiment=name)
    digest = sha256_of(shared_store / "models/cnn/model.onnx")
    first = register.register(name, model_uri=uri, model_sha256=digest, tags={})
    assert register.register(name, model_uri=uri, model_sha256=digest, tags={}).version == first.version
    shutil.rmtree(versions.fetch(first).parents[1])
    second = register.register(
        name, model_uri=train(shared_store, reads=0, experiment=name), model_sha256=digest, tags={}
    )
    assert (first.version, second.version) == ("1", "2")


def test_the_card_is_kept_with_the_run_and_as_description(shared_store):
    name = next(names)
    uri = train(shared_store, reads=0, experiment=name)
    version = register.register(
        name, model_uri=uri, model_sha256=sha256_of(shared_store / "models/cnn/model.onnx"), tags={}
    )
    for _ in range(2):
        kept = register.store_card(version, markdown="# card", html="<p>card</p>", description="short " * 2000)
    assert kept == [f"runs:/{version.run_id}/model_card/{name}-1", f"models:/{name}/1"]
    assert (store.download(kept[0], shared_store / "card") / "model_card.html").read_text() == "<p>card</p>"
    assert len(store.client().get_model_version(name, "1").description) == 5000
    [bare] = bare_versions(shared_store, next(names), 1)
    assert register.store_card(bare, markdown="", html="", description="short") == [f"models:/{bare.name}/1"]
    assert versions.damage(version) == []


def test_runs_of_dead_processes_alone_are_closed(shared_store):
    code = (
        "import os, signal; from darkroom.tracking import runs\n"
        "with runs.run(experiment='killed', name='train-cnn', params={}, tags={}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=clean_environment(), check=False)
    with runs.run(experiment="alive", name="train-cnn", params={}, tags={}) as alive:
        opened = store.client()
        experiment = opened.get_experiment_by_name("alive").experiment_id
        reused = opened.create_run(experiment, tags=dict(opened.get_run(alive.id).data.tags))
        opened.set_tag(reused.info.run_id, "process.started", str(time.time() - 3600))
        elsewhere = {**opened.get_run(reused.info.run_id).data.tags, "process.namespace": "pid:[1]"}
        opened.create_run(experiment, tags=elsewhere)  # a container of the same host name counts its own processes
        found = [finding for finding in check.check("any") if finding.kind == "dead run"]
        assert len(found) == 2
        assert all("is RUNNING, its process" in finding.sentence for finding in found)
        assert alive.id not in {finding.about for finding in found}
        check.repair("any")
        assert {opened.get_run(finding.about).info.status for finding in found} == {"KILLED"}
        assert opened.get_run(alive.id).info.status == "RUNNING"
    assert kinds("any") == []
