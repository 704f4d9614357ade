import pytest

from darkroom.promotion.decision import Decision
from darkroom.promotion.registration import PARITY, awaits_approval
from darkroom.registry.aliases import AGAINST, NOBODY
from darkroom.registry.snapshot import Registered, Version


def waits(*, challenger="2", against="1", champion="1", parity="passed", **tags):
    version = Version("pets", "2", None, "somewhere", {AGAINST: against, **tags})
    aliases = {"challenger": challenger} | ({"champion": champion} if champion else {})
    registered = Registered("pets", versions={"2": version}, aliases=aliases)
    return awaits_approval(version, registered, Decision(True, [], {PARITY: {"status": parity}}))


def test_the_verified_challenger_of_the_champion_waits():
    assert waits()
    assert waits(parity="off")
    assert waits(champion=None, against=NOBODY)


@pytest.mark.parametrize(
    "changed",
    [{"challenger": "3"}, {"champion": "3"}, {"champion": None}, {"parity": "not_applicable"}, {"rolled_back": "bad"}],
)
def test_another_or_unverified_version_does_not(changed):
    assert not waits(**changed)
