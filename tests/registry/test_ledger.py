import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from darkroom.errors import RegistryError
from darkroom.registry import aliases, check, ledger, snapshot, versions
from darkroom.registry.ledger import TAG_CHARACTERS, Move
from darkroom.tracking import store
from tests.support.bare_versions import Died, Dying, bare_versions

pytestmark = pytest.mark.heavy
names = (f"pets-{number}" for number in itertools.count())


def champions(name, *numbers):
    """Make these versions champion, one after the other."""
    for number in numbers:
        replacing = versions.read(name).aliases.get("champion")
        aliases.promote(versions.find(name, version=number), replacing=replacing, reasons=[f"{number} is better"])


def challenge_and_promote(name):
    version, champion = versions.find(name, version="3"), versions.read(name).aliases.get("champion")
    aliases.challenge(version, replacing=champion, reasons=["3 is better"])
    aliases.promote(version, replacing=champion, reasons=["3 is better"])


def challenge_and_approve(name):
    version, champion = versions.find(name, version="3"), versions.read(name).aliases.get("champion")
    aliases.challenge(version, replacing=champion, reasons=["3 is better"])
    aliases.approve(name, reason="seen")


def roll_back(name, to=None):
    aliases.rollback(name, reason="bad", to=to)


OPERATIONS = {
    "promote the first": (0, challenge_and_promote, {"challenger": "3", "champion": "3"}),
    "promote another": (2, challenge_and_promote, {"challenger": "3", "champion": "3", "previous": "2"}),
    "approve": (2, challenge_and_approve, {"challenger": "3", "champion": "3", "previous": "2"}),
    "roll back": (2, roll_back, {"champion": "1", "previous": "2", "hold": "1"}),
    "roll back to": (3, lambda name: roll_back(name, to="1"), {"champion": "1", "previous": "3", "hold": "1"}),
}


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, n_writes: int) -> Iterator[None]:
    """Do what is inside as a process that dies before its write n_writes (counted from 0)."""
    opened = store.client()
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "client", lambda: Dying(opened, n_writes))
        with pytest.raises(Died):
            yield


def is_consistent(name):
    """The history tells every move without a gap, ends where the aliases are, and the check finds nothing."""
    registered = versions.read(name)
    last: dict[str, str | None] = {}
    for entry in registered.history():
        assert entry["from"] == last.get(entry["alias"])
        assert entry["who"] != "unknown"
        last[entry["alias"]] = entry["to"]
    assert {alias: to for alias, to in last.items() if to} == registered.aliases
    assert [finding for finding in check.check(name) if finding.kind != "dead run"] == []
    return registered


@pytest.mark.parametrize("mended_by", ["the next call", pytest.param("registry-check", marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_death_at_any_moment_loses_and_doubles_nothing(shared_store, monkeypatch, operation, mended_by):
    n_champions, act, expected = OPERATIONS[operation]
    opened = store.client()
    for n_writes in itertools.count():
        name = next(names)
        bare_versions(shared_store, name, 3)
        champions(name, *"123"[:n_champions])
        dying = Dying(opened, n_writes)
        monkeypatch.setattr(ledger, "client", lambda dying=dying: dying)
        try:
            act(name)
            died = False
        except Died:
            died = True
        monkeypatch.setattr(ledger, "client", lambda: opened)
        if mended_by == "registry-check":
            check.repair(name)
            is_consistent(name)
        if died and versions.read(name).aliases.get("champion") != expected["champion"]:
            act(name)
        elif died and mended_by == "the next call":
            aliases.settle(name)
        assert is_consistent(name).aliases == expected
        n_moves = [entry["alias"] for entry in versions.read(name).history()].count("champion")
        assert n_moves == n_champions + 1
        if not died:
            break
    assert n_writes >= 4


def test_a_rollback_repeated_after_a_death_goes_back_once(shared_store, monkeypatch):
    name = next(names)
    bare_versions(shared_store, name, 3)
    champions(name, "1", "2")
    with dying(monkeypatch, 4):
        aliases.rollback(name, reason="bad")
    champion, previous = aliases.rollback(name, reason="bad")
    assert previous
    assert (champion.version, previous.version) == ("1", "2")
    is_consistent(name)


def test_a_rollback_finishes_what_a_dead_one_began(shared_store, monkeypatch):
    name = next(names)
    bare_versions(shared_store, name, 3)
    champions(name, "1", "2", "3")
    with dying(monkeypatch, 2):
        aliases.rollback(name, reason="bad", to="2")
    champion, previous = aliases.rollback(name, reason="worse", to="1")
    assert previous
    assert (champion.version, previous.version) == ("1", "2")
    assert versions.read(name).versions["3"].tags["rolled_back"] == "bad"
    is_consistent(name)


def test_a_rollback_during_a_promotion_stays(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 2)
    champions(name, "1")
    decided = versions.find(name, version="2")  # against version 1, which is champion again below
    champions(name, "2")
    aliases.rollback(name, reason="confuses cats")
    for act in (aliases.challenge, aliases.promote):
        with pytest.raises(RegistryError, match=r"version 2 was rolled back: confuses cats; .*rollback --to 2"):
            act(decided, replacing="1", reasons=["2 is better"])
    assert is_consistent(name).aliases["champion"] == "1"


def test_an_alias_moved_after_the_death_stays_where_it_is(shared_store, monkeypatch):
    name = next(names)
    bare_versions(shared_store, name, 3)
    champions(name, "1")
    with dying(monkeypatch, 1):
        champions(name, "2")
    store.client().set_registered_model_alias(name, "champion", "3")
    told = aliases.settle(name)
    assert told[0].startswith("finished: previous from none to 1, champion from 1 to 2, begun by ")
    assert told[1:] == ["recorded in the history: champion moved from 2 to 3"]
    assert versions.read(name).aliases["champion"] == "3"


def test_a_move_to_a_version_that_was_deleted_is_given_up(shared_store, monkeypatch):
    name = next(names)
    bare_versions(shared_store, name, 2)
    champions(name, "1")
    with dying(monkeypatch, 1):
        champions(name, "2")
    store.client().delete_model_version(name, "2")
    aliases.settle(name)
    assert is_consistent(name).aliases == {"champion": "1"}


def test_long_reasons_are_cut_to_what_a_tag_holds(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 1)
    with ledger.ledger(name) as book:
        book.move([Move("champion", None, "1", ["ä" * 3000] * 12)])
    tags = versions.read(name).tags
    assert len(tags["history.000001"]) <= TAG_CHARACTERS
    assert len(versions.read(name).history()[0]["reasons"]) == 12
    assert "unfinished" not in tags


def test_a_year_of_promotions_takes_few_tags_and_loses_nothing(shared_store, monkeypatch):
    name = next(names)
    bare_versions(shared_store, name, 2)
    monkeypatch.setattr(snapshot, "KEPT", 4)
    monkeypatch.setattr(ledger, "KEPT", 4)
    opened, n_deaths = store.client(), itertools.count()
    told: list[tuple[str, str]] = []
    for number in range(24):
        champion, before = str(number % 2 + 1), versions.read(name).aliases.get("champion")
        reason = f"night {number}"
        told.append((champion, reason))
        while versions.read(name).aliases.get("champion") != champion:  # each time it dies a little later
            dying = Dying(opened, next(n_deaths) % 17)
            monkeypatch.setattr(ledger, "client", lambda dying=dying: dying)
            with suppress(Died):
                aliases.promote(versions.find(name, version=champion), replacing=before, reasons=[reason])
    monkeypatch.setattr(ledger, "client", lambda: opened)
    aliases.settle(name)
    found = is_consistent(name)
    assert [(reign["version"], reign["reasons"]) for reign in found.reigns()] == [(to, [why]) for to, why in told]
    assert len(found.tags) < 20
    assert versions._read_client(name) == found
    aliases.rollback(name, reason="bad", to="1")
    opened.set_registered_model_tag(name, "archive.000001", "{")
    with pytest.raises(RegistryError, match=r"the tag archive.000001 of the registered model is damaged"):
        versions.read(name).history()


def test_a_promotion_that_was_made_is_no_error_for_its_archive(shared_store, monkeypatch):
    name = next(names)
    bare_versions(shared_store, name, 2)
    monkeypatch.setattr(snapshot, "KEPT", 4)
    monkeypatch.setattr(ledger, "KEPT", 4)
    store.client().set_registered_model_tag(name, "archive.000001", snapshot.packed({}))
    with sqlite3.connect(shared_store / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON registered_model_tags WHEN NEW.key = 'archive.000001' "
            f"AND NEW.name = '{name}' BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    made: list[str] = []

    def promote_by_turns():
        for champion in "12" * 10:
            champions(name, champion)
            made.append(champion)

    with pytest.raises(RegistryError, match="the disk is full"):
        promote_by_turns()
    assert [reign["version"] for reign in versions.read(name).reigns()] == made
    with sqlite3.connect(shared_store / "mlflow.db") as database:
        database.execute("DROP TRIGGER full")
    champions(name, str(len(made) % 2 + 1))
    assert len(is_consistent(name).reigns()) == len(made) + 1


def test_a_damaged_entry_of_the_history_is_named(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 1)
    store.client().set_registered_model_tag(name, "history.000001", "{")
    with pytest.raises(RegistryError, match=r"the tag history.000001 of the registered model is damaged"):
        versions.read(name).history()


def test_going_back_is_refused_where_there_is_nothing(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 4)
    champions(name, "1", "2", "3")
    for to, message in (
        ("3", "version 3 is already the champion"),
        ("4", "version 4 was never champion; earlier champions: 1, 2"),
        ("9", "has no version 9; earlier champions: 1, 2"),
    ):
        with pytest.raises(RegistryError, match=message):
            aliases.rollback(name, reason="bad", to=to)
    Path(shared_store, "bare", name, "1", "MLmodel").unlink()
    with pytest.raises(RegistryError, match="version 1 cannot become champion: MLmodel is missing; restore its files"):
        aliases.rollback(name, reason="bad", to="1")
    assert versions.read(name).aliases == {"champion": "3", "previous": "2"}


def test_a_challenger_is_approved_only_against_its_champion(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 4)
    champions(name, "1")
    with pytest.raises(RegistryError, match=f"{name} has no alias 'challenger'"):
        aliases.approve(name)
    aliases.challenge(versions.find(name, version="2"), replacing="1", reasons=["better"])
    with pytest.raises(RegistryError, match="the challenger is version 2, not 3; only the challenger can be approved"):
        aliases.approve(name, version="3")
    store.client().set_registered_model_alias(name, "champion", "4")
    with pytest.raises(RegistryError, match="version 2 was compared with version 1, but the champion is now version 4"):
        aliases.approve(name)
    store.client().set_registered_model_alias(name, "champion", "1")
    assert aliases.approve(name, version="2", reason="looked at it").version == "2"
    assert aliases.approve(name).version == "2"
    assert versions.read(name).reigns()[-1]["reasons"] == ["approved: looked at it"]


def test_a_challenge_against_an_older_champion_moves_nothing(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 3)
    champions(name, "1", "2")
    with pytest.raises(RegistryError, match="the champion is now version 2, but the decision was made against 1"):
        aliases.challenge(versions.find(name, version="3"), replacing="1", reasons=["better"])
    assert "challenger" not in versions.read(name).aliases


def test_a_waiting_challenger_is_dropped_with_its_champion(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 3)
    champions(name, "1", "2")
    aliases.challenge(versions.find(name, version="3"), replacing="2", reasons=["better"])
    aliases.rollback(name, reason="bad")
    assert is_consistent(name).aliases == {"champion": "1", "previous": "2", "hold": "1"}


def test_after_a_rollback_nothing_is_promoted_on_hold(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 3)
    champions(name, "1", "2")
    aliases.rollback(name, reason="bad")
    hold = versions.read(name).hold
    with pytest.raises(RegistryError, match=r"promotions are on hold since 20.*\(rollback: bad\); run `dvc repro"):
        champions(name, "3")
    assert aliases.lift_hold(name, reason="the counter was cleaned") == hold
    assert aliases.lift_hold(name) is None
    assert is_consistent(name).history()[-1]["reasons"] == ["hold lifted: the counter was cleaned"]
    champions(name, "3")
    assert is_consistent(name).aliases == {"champion": "3", "previous": "1"}


def test_an_approval_ends_the_hold(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 3)
    champions(name, "1", "2")
    aliases.rollback(name, reason="bad")
    challenge_and_approve(name)
    assert is_consistent(name).hold is None
    champions(name, "1")


def test_a_hold_may_be_set_and_lifted_by_other_means(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 2)
    champions(name, "1")
    opened = store.client()
    opened.set_registered_model_alias(name, "hold", "1")
    expected = "promotions are on hold since a time that is not recorded (the alias hold was set without a record)"
    assert str(versions.read(name).hold) == expected
    opened.delete_registered_model_alias(name, "hold")
    champions(name, "2")
    with pytest.raises(RegistryError, match="no model is registered as 'nobody'"):
        aliases.lift_hold("nobody")


def test_the_reigns_of_champions_follow_each_other(shared_store):
    name = next(names)
    bare_versions(shared_store, name, 2)
    champions(name, "1", "2")
    aliases.rollback(name, reason="bad")
    reigns = versions.read(name).reigns()
    assert [reign["version"] for reign in reigns] == ["1", "2", "1"]
    assert [reign["until"] for reign in reigns] == [reigns[1]["since"], reigns[2]["since"], None]
    assert reigns[1]["reasons"] == ["2 is better"]
