import itertools
import json
import re

import pytest

from darkroom.files.writing import sha256_of
from darkroom.registry import register, versions
from darkroom.registry.aliases import challenge, promote, rollback
from darkroom.tracking import store
from tests.support.bare_versions import bare_versions
from tests.support.command_line import run
from tests.support.trained_repository import train

pytestmark = pytest.mark.heavy
names = (f"pets-{number}" for number in itertools.count())


@pytest.fixture
def name(shared_store):
    """A registered name with three versions; 1 and then 2 became champion."""
    name = next(names)
    first, second, _ = bare_versions(shared_store, name, 3)
    promote(first, replacing=None, reasons=["the first"])
    promote(second, replacing="1", reasons=["better by 2 %"])
    return name


def test_history_tells_what_was_champion_when_and_why(name, monkeypatch, capfd):
    code, out, _ = run(monkeypatch, capfd, "history", "--model", name)
    first, second, aliases = out.splitlines()
    assert code == 0
    assert first.startswith("version 1  20")
    assert first.endswith("  the first")
    assert "+00:00 to now  " in second
    assert second.endswith("  better by 2 %")
    assert aliases == "aliases: champion -> 2, previous -> 1"
    _, out, _ = run(monkeypatch, capfd, "history", "--model", name, "--json")
    told = json.loads(out)
    assert [(reign["version"], reign["until"] is None) for reign in told["champions"]] == [("1", False), ("2", True)]
    assert [move["alias"] for move in told["moves"]] == ["champion", "previous", "champion"]
    assert told["aliases"] == {"champion": "2", "previous": "1"}


def test_on_a_terminal_the_history_is_a_table(name, monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    rollback(name, reason="[bold] dogs")
    _, out, _ = run(monkeypatch, capfd, "history", "--model", name)
    assert f"{name}: champions" in out
    assert "since (UTC)" in out
    assert "rollback: [bold] dogs" in out


def test_the_history_of_an_unknown_name_suggests_the_nearest(name, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "history", "--model", f"{name}s")
    assert code == 1
    assert re.search(rf"no model is registered as '{name}s' in .*; did you mean 'pets-\d+'\?", err)


def test_rollback_goes_one_step_or_to_an_earlier_champion(name, monkeypatch, capfd):
    code, out, _ = run(monkeypatch, capfd, "rollback", "--model", name, "--reason", "dogs are cats")
    rolled_back, hold = out.splitlines()
    assert (code, rolled_back) == (0, f"{name}: rolled back from version 2 to version 1")
    assert re.fullmatch(rf"{name}: promotions are on hold since 20\S+ \(rollback: dogs are cats\): a better .*", hold)
    for command in ("history", "registry-check"):
        assert f"{hold}\n" in run(monkeypatch, capfd, command, "--model", name)[1]
    _, out, _ = run(monkeypatch, capfd, "history", "--model", name, "--json")
    assert json.loads(out)["hold"]["reason"] == "rollback: dogs are cats"
    assert run(monkeypatch, capfd, "lift-hold", "--model", name)[:2] == (0, f"{name}: the hold is lifted\n")
    assert run(monkeypatch, capfd, "lift-hold", "--model", name)[:2] == (0, f"{name}: promotions were not on hold\n")
    promote(versions.find(name, version="3"), replacing="1", reasons=["better"])
    _, out, _ = run(monkeypatch, capfd, "rollback", "--model", name, "--to", "2", "--reason", "was right", "--json")
    assert json.loads(out) == {"model": name, "champion": "2", "previous": "3"}
    assert versions.find(name, version="3").tags["rolled_back"] == "was right"


@pytest.mark.parametrize(
    ("days", "is_over"), [("0", True), ("1.0e-9", True), ("0.5", False), (".inf", False), ("null", False), ("x", False)]
)
def test_a_hold_whose_days_are_over_is_reported_as_ended(name, shared_store, monkeypatch, capfd, days, is_over):
    rollback(name, reason="dogs are cats")
    params = shared_store / "params.yaml"
    before = params.read_text()
    assert "hold_days: null" in before
    try:
        params.write_text(before.replace("hold_days: null", f"hold_days: {days}"))
        for command in ("history", "registry-check"):
            out = run(monkeypatch, capfd, command, "--model", name)[1]
            assert ("are on hold" in out) is not is_over
            ended = r": the hold since 20\S+ \(rollback: dogs are cats\) has ended after promote.hold_days"
            assert bool(re.search(ended, out)) is is_over
        assert json.loads(run(monkeypatch, capfd, "history", "--model", name, "--json")[1])["hold"]["ended"] is is_over
    finally:
        params.write_text(before)


def test_a_rollback_without_a_reason_is_wrong_usage(name, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "rollback", "--model", name, "--reason", " ")
    assert code == 2
    assert "--reason is empty" in err


def test_approve_makes_the_challenger_champion(name, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "approve", "--model", name)
    assert code == 1
    assert f"{name} has no alias 'challenger'" in err
    challenge(versions.find(name, version="3"), replacing="2", reasons=["better"])
    code, out, _ = run(monkeypatch, capfd, "approve", "3", "--model", name, "--reason", "seen by two people")
    expected = f"{name}: approved version 3 (it was compared with version 2); it is champion now\n"
    assert (code, out) == (0, expected)
    assert versions.read(name).aliases == {"champion": "3", "previous": "2", "challenger": "3"}


def test_reject_takes_the_waiting_version_away(name, monkeypatch, capfd):
    code, _, err = run(monkeypatch, capfd, "reject", "3", "--model", name, "--reason", "dim")
    assert (code, f"{name}: version 3 does not wait for approval; none does" in err) == (1, True)
    challenge(versions.find(name, version="3"), replacing="2", reasons=["better"])
    code, out, _ = run(monkeypatch, capfd, "reject", "3", "--model", name, "--reason", "dim images")
    assert (code, out) == (0, f"{name}: version 3 is rejected\n")
    assert "challenger" not in versions.read(name).aliases
    assert versions.find(name, version="3").tags["rolled_back"] == "rejected: dim images"
    code, _, err = run(monkeypatch, capfd, "approve", "--model", name)
    assert code == 1


def test_the_check_lists_what_is_wrong_and_mends_it(shared_store, name, monkeypatch, capfd):
    assert run(monkeypatch, capfd, "registry-check", "--model", name)[:2] == (0, f"{name}: no problems\n")
    store.client().set_registered_model_alias(name, "champion", "1")
    (shared_store / "bare" / name / "3" / "MLmodel").write_text("changed")
    code, out, _ = run(monkeypatch, capfd, "registry-check", "--model", name, "--json")
    told = json.loads(out)
    assert code == 1
    assert told["found"] == told["left"]
    assert [finding["kind"] for finding in told["found"]] == ["unrecorded", "champion is previous", "files"]
    code, out, _ = run(monkeypatch, capfd, "registry-check", "--model", name, "--repair")
    assert code == 1
    assert out.splitlines() == [
        "repaired: unrecorded: champion is version 1, but the history says 2; --repair records it in the history",
        "repaired: champion is previous: previous is version 1: version 1 is champion and previous; "
        "--repair moves it to version 2",
        "files: version 3: MLmodel was changed after registration; restore it",
        f"{name}: 3 problems, 1 not repaired",
    ]


def test_compare_says_whether_chance_explains_the_difference(shared_store, monkeypatch, capfd):
    for reads in (0, 2):
        uri = train(shared_store, reads=reads, experiment="compared")
        digest = sha256_of(shared_store / "models/cnn/model.onnx")
        version = register.register("compared", model_uri=uri, model_sha256=digest, tags={})
    promote(version, replacing=None, reasons=["a"])
    code, out, _ = run(monkeypatch, capfd, "compare", "1", "champion", "--model", "compared", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["a"], found["b"], found["n_images"]) == ("1", "2", 200)
    assert (found["n_only_a_correct"], found["n_only_b_correct"]) == (6, 0)
    assert found["accuracy_b"] == 0.97
    _, out, _ = run(monkeypatch, capfd, "compare", "1", "champion", "--model", "compared")
    assert "accuracy: version 1 100.00%, version 2 (champion) 97.00%" in out
    assert "only version 1 is correct on 6, only version 2 (champion) on 0; McNemar's exact test: p = 0.0312" in out
    assert "recall per class" in out
    code, _, err = run(monkeypatch, capfd, "compare", "1", "best", "--model", "compared")
    assert code == 1
    assert "compared has no alias 'best'; its versions: 1, 2" in err
