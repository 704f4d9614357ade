import json
import os
import time

import numpy as np
import pytest

from darkroom.files.writing import sha256_of, write_text
from darkroom.operations import gc
from darkroom.registry import aliases, register, versions
from darkroom.registry.comparisons import REFERENCE
from darkroom.registry.snapshot import Registered, Version
from darkroom.tracking import restored, runs
from tests.support.trained_repository import fresh_store, prepare, train

pytestmark = pytest.mark.heavy


def version(number: str, **tags: str) -> Version:
    return Version("pets", number, None, f"file:///models/m-{number}/artifacts", tags)


def test_what_has_an_alias_was_rolled_back_or_is_new_stays():
    known = {number: version(number) for number in ("1", "2", "3", "4", "10")}
    known["2"] = version("2", rolled_back="confuses dogs")
    registered = Registered("pets", known, {"champion": "1", "previous": "4", "challenger": "1"})
    assert gc.kept_versions(registered, keep=1) == {"1", "2", "4", "10"}
    assert gc.kept_versions(registered, keep=2) == {"1", "2", "4", "10"}
    assert gc.kept_versions(registered, keep=9) == set(known)


@pytest.mark.parametrize("alias", ["champion", "challenger", "previous"])
def test_what_a_margin_is_held_against_stays(alias):
    known = {number: version(number) for number in "1234"}
    known["3"] = Version("pets", "3", None, "", {REFERENCE: "1"})
    assert gc.kept_versions(Registered("pets", known, {alias: "3"}), keep=1) == {"1", "3", "4"}
    assert gc.kept_versions(Registered("pets", known, {alias: "2"}), keep=1) == {"2", "4"}
    del known["1"]
    assert gc.kept_versions(Registered("pets", known, {alias: "3"}), keep=1) == {"3", "4"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Versions 1 to 4 were champions in turn, 5 was only registered; the tests go on from each other's end."""
    root = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        fresh_store(root, patch)
        prepare(root)
        champion = None
        for reads in range(4):
            made = registered(root, reads)
            aliases.challenge(made, replacing=champion, reasons=["better"])
            aliases.promote(made, replacing=champion, reasons=["better"])
            champion = made.version
        onnx = root / "models" / "cnn" / "model.onnx"
        onnx.write_bytes(onnx.read_bytes() + b"\x12\x01x")  # other bytes, the same model
        unknown = {
            "run_id": "0" * 32,
            "experiment": "pets",
            "onnx_path": onnx,
            "seen": onnx.with_name("seen_ids.npy"),
            "tags": {},
        }
        uri, _ = restored.find_or_log_model("models:/m-" + "0" * 32, **unknown)
        register.register("pets", model_uri=uri, model_sha256=sha256_of(onnx), tags={})
        yield root


def registered(root, reads: int) -> Version:
    uri = train(root, reads=reads)
    return register.register("pets", model_uri=uri, model_sha256=sha256_of(root / "models/cnn/model.onnx"), tags={})


def names(plan: gc.Plan, kind: str) -> list[str]:
    return [one.key or one.name for one in plan.waste if one.kind == kind]


def bytes_on_disk(root) -> int:
    return sum(path.stat().st_size for path in root.glob("mlartifacts/**/*") if path.is_file())


def test_runs_that_go_on_and_young_ones_stay(root):
    with runs.run(experiment="pets", name="going on", params={"a": 1}, tags={}):
        assert not any("going on" in name for name in names(gc.plan(root, name="pets", keep=1, days=0), "run"))
    plan = gc.plan(root, name="pets", keep=1, days=0)
    assert any("going on" in name for name in names(plan, "run"))
    assert names(gc.plan(root, name="pets", keep=1, days=1), "run") == []


def test_a_version_that_came_under_an_alias_since_the_plan_stays(root):
    plan = gc.plan(root, name="pets", keep=1, days=0)
    assert plan.kept == {"pets": ["3", "4", "5"]}
    assert names(plan, "version") == ["1", "2"]
    aliases.rollback("pets", reason="back to the first", to="1")
    gc.remove(plan, keep=1)
    assert list(versions.read("pets").versions) == ["1", "3", "4", "5"]
    versions.load(versions.find("pets", alias="champion"))


def test_after_it_registry_rollback_and_prediction_work(root):
    before, on_disk = versions.read("pets"), bytes_on_disk(root)
    plan = gc.plan(root, name="pets", keep=1, days=0)
    assert names(plan, "version") == ["3"]
    assert plan.n_bytes > 1000
    gc.remove(plan, keep=1)
    assert on_disk - bytes_on_disk(root) == plan.n_bytes
    after = versions.read("pets")
    assert list(after.versions) == ["1", "4", "5"]
    assert after.aliases == before.aliases
    assert after.history() == before.history()
    for number in after.versions:
        package = versions.load(versions.find("pets", version=number))
        assert package.probabilities(np.zeros((1, 4, 4, 1), np.uint8)).shape == (1, 2)
    champion, _ = aliases.rollback("pets", reason="a test", to="4")
    assert champion.version == "4"
    assert names(gc.plan(root, name="pets", keep=1, days=0), "version") == []


def test_a_model_that_was_removed_can_be_registered_again(root):
    assert registered(root, 1).version == "6"


def test_stale_files_go_and_what_is_in_use_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    folder = tmp_path / ".darkroom"
    files = ["checkpoints/abc/last.npz", "checkpoints/new/last.npz", "decisions/d.json", "tuning/old.journal"]
    for name in [*files, "tuning/used.journal", "weights/net.whl", "models/pets/1/artifacts/model.onnx"]:
        write_text(folder / name, "x" * 10)
    write_text(folder / "tuning" / "cnn.json", json.dumps({"study": "used", "trials": 3}))
    long_ago = time.time() - 30 * 86400
    for path in (path for path in folder.rglob("*") if "new" not in path.parts):
        os.utime(path, (long_ago, long_ago))
    plan = gc.plan(tmp_path, name="pets", keep=1, days=7)
    found = {one.kind: (one.name, one.n_bytes) for one in plan.waste}
    assert found == {
        "checkpoint": ("abc", 10),
        "decision": ("d.json", 10),
        "study": ("old.journal", 10),
        "download": ("pets 1", 10),
    }
    gc.remove(plan, keep=1)
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert left == ["checkpoints/new/last.npz", "tuning/cnn.json", "tuning/used.journal", "weights/net.whl"]


def test_the_command_removes_nothing_unless_it_is_told_to(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from darkroom.cli.main import app

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    stale = tmp_path / ".darkroom" / "decisions" / "d.json"
    write_text(stale, "{}")
    write_text(tmp_path / "dvc.yaml", "stages: {}\n")
    arguments = ["gc", "--model", "pets", "--days", "0", "--json"]
    said = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert (said["removed"], said["bytes"], said["items"][0]["kind"]) == (False, 2, "decision")
    assert stale.exists()
    assert json.loads(CliRunner().invoke(app, [*arguments, "--yes"]).stdout)["removed"]
    assert not stale.exists()
    printed = CliRunner().invoke(app, ["gc", "--model", "pets"]).stdout
    assert "0 items, 0.0 MB would be deleted; delete them with --yes" in printed
