import shutil

import pytest

from darkroom.errors import RegistryError
from darkroom.files.writing import sha256_of
from darkroom.registry import aliases, check, register, versions
from darkroom.registry.snapshot import PACKAGE_FILE
from darkroom.tracking import store
from tests.support.trained_repository import fresh_store, prepare, train

pytestmark = pytest.mark.heavy


@pytest.fixture
def root(tmp_path, monkeypatch):
    fresh_store(tmp_path, monkeypatch)
    prepare(tmp_path)
    return tmp_path


def registered(root, reads, name="pets"):
    uri = train(root, reads=reads, experiment=name)
    digest = sha256_of(root / "models/cnn/model.onnx")
    return register.register(name, model_uri=uri, model_sha256=digest, tags={"candidate": "cnn"})


def test_reading_sqlite_directly_gives_what_mlflow_gives(root):
    first = registered(root, 0)
    aliases.promote(first, replacing=None, reasons=["good"])
    aliases.promote(registered(root, 1), replacing="1", reasons=['better, "quoted" and ümläuted'])
    direct = versions.read("pets")
    assert direct == versions._read_client("pets")
    assert direct.aliases == {"champion": "2", "previous": "1"}


def test_a_name_that_nobody_registered_has_no_versions(root):
    assert versions.read("pets") == versions.Registered("pets") == versions._read_client("pets")


def test_before_the_first_run_nothing_is_registered(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert versions.read("pets").versions == {}
    assert not (tmp_path / "mlflow.db").exists()


def test_the_same_model_is_registered_once(root):
    assert registered(root, 0).version == registered(root, 0).version == "1"
    assert registered(root, 1).version == "2"


def test_another_model_than_the_evaluated_one_is_refused(root):
    uri = train(root, reads=0)
    with pytest.raises(RegistryError, match=r"has a model.onnx with sha256 .*, the evaluated one is aaaaaaaaaaaa"):
        register.register("pets", model_uri=uri, model_sha256="a" * 64, tags={})
    assert versions.read("pets").versions == {}


def test_every_move_is_recorded_with_who_when_and_why(root):
    first = registered(root, 0)
    aliases.challenge(first, replacing=None, reasons=["looks good"])
    aliases.promote(first, replacing=None, reasons=["is good"])
    moves = versions.read("pets").history()
    assert [(move["alias"], move["from"], move["to"], move["reasons"]) for move in moves] == [
        ("challenger", None, "1", ["looks good"]),
        ("champion", None, "1", ["is good"]),
    ]
    assert all("@" in move["who"] and move["at"].endswith("+00:00") for move in moves)


def test_promoting_twice_is_promoting_once(root):
    first = registered(root, 0)
    aliases.promote(first, replacing=None, reasons=["a"])
    aliases.promote(first, replacing=None, reasons=["a"])
    assert len(versions.read("pets").history()) == 1


def test_a_decision_against_an_older_champion_moves_nothing(root):
    first, second, third = (registered(root, reads) for reads in (0, 1, 2))
    aliases.promote(first, replacing=None, reasons=["a"])
    aliases.promote(second, replacing="1", reasons=["b"])
    with pytest.raises(RegistryError, match="the champion is now version 2, but the decision was made against 1"):
        aliases.promote(third, replacing="1", reasons=["c"])
    assert versions.read("pets").aliases["champion"] == "2"


def test_a_move_by_somebody_else_is_noted_at_the_next_one(root):
    first, second = registered(root, 0), registered(root, 1)
    store.client().set_registered_model_alias("pets", "champion", "1")
    aliases.promote(second, replacing="1", reasons=["b"])
    moves = [
        (move["who"], move["from"], move["to"])
        for move in versions.read("pets").history()
        if move["alias"] == "champion"
    ]
    assert moves[0] == ("unknown", None, "1")
    assert moves[1][1:] == ("1", "2")
    assert first.version == "1"


def test_rollback_exchanges_champion_and_previous(root):
    aliases.promote(registered(root, 0), replacing=None, reasons=["a"])
    aliases.promote(registered(root, 1), replacing="1", reasons=["b"])
    champion, previous = aliases.rollback("pets", reason="too many dogs")
    assert previous
    assert (champion.version, previous.version) == ("1", "2")
    assert previous.tags["rolled_back"] == "too many dogs"
    assert versions.read("pets").history()[-1]["reasons"] == ["rollback: too many dogs"]
    champion, previous = aliases.rollback("pets", reason="was not that")
    assert previous
    assert (champion.version, previous.version) == ("2", "1")
    assert "rolled_back" not in champion.tags


def test_the_first_champion_cannot_be_rolled_back(root):
    with pytest.raises(RegistryError, match="no model is registered as 'pets'"):
        aliases.rollback("pets", reason="x")
    aliases.promote(registered(root, 0), replacing=None, reasons=["a"])
    with pytest.raises(RegistryError, match="there is no earlier champion"):
        aliases.rollback("pets", reason="x")


def test_a_name_without_versions_is_told_from_an_unknown_one(root):
    store.client().create_registered_model("pets")
    for ask in (
        lambda: versions.find("pets", alias="champion"),
        lambda: aliases.rollback("pets", reason="x"),
        lambda: aliases.approve("pets"),
        lambda: aliases.lift_hold("pets"),
    ):
        with pytest.raises(RegistryError, match=r"'pets' has no versions in .*mlflow.db; run `dvc repr"):
            ask()
    assert check.repair("pets") == []


def test_what_is_missing_is_named_with_what_there_is(root):
    aliases.promote(registered(root, 0), replacing=None, reasons=["a"])
    with pytest.raises(RegistryError, match="no model is registered as 'pet' .*; did you mean 'pets'?"):
        versions.find("pet", alias="champion")
    with pytest.raises(RegistryError, match="pets has no alias 'prod'; its versions: 1; its aliases: champion -> 1"):
        versions.find("pets", alias="prod")
    with pytest.raises(RegistryError, match="pets has no version 7"):
        versions.find("pets", version="7")


def test_a_version_whose_files_are_missing_is_an_error(root):
    version = registered(root, 0)
    shutil.rmtree(root / "mlartifacts")
    with pytest.raises(RegistryError, match=r"pets version 1: .*model.onnx is missing; restore it"):
        versions.load(version)


def test_two_versions_loaded_in_one_process_keep_their_own_code(root):
    first, second = registered(root, 0), registered(root, 1)
    code = versions.fetch(first, PACKAGE_FILE)
    code.write_text(code.read_text().replace('"abstained":', '"old": True, "abstained":'))
    tags = {**first.tags, f"sha256/{PACKAGE_FILE}": sha256_of(code)}
    changed = versions.Version("pets", "1", None, first.location, tags)
    assert versions.load(changed).__class__ is not versions.load(second).__class__
