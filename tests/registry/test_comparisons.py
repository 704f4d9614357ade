import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.errors import RegistryError
from darkroom.registry import comparisons, versions
from darkroom.registry.snapshot import Registered, Version
from darkroom.tracking.store import client
from tests.support.trained_repository import fresh_store

LIKE_EVERY_TIME = settings(deadline=None, derandomize=True, database=None, max_examples=50)


def image_ids(start, stop):
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, stop)]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def store(tmp_path, monkeypatch):
    fresh_store(tmp_path, monkeypatch)
    client().create_registered_model("pets")
    return tmp_path


def compare(models, ids):
    found = comparisons.number(versions.read("pets"), ids, digest(models))
    comparisons.record("pets", ids, digest(models), run_id="r1", passed=False, reason=f"It is {models}.")
    return found


def test_each_comparison_counts_once(store):
    ids = image_ids(0, 300)
    assert [compare(models, ids) for models in ("a", "b", "c", "b", "a", "d")] == [1, 2, 3, 2, 1, 4]
    (tag,) = (value for key, value in versions.read("pets").tags.items() if key.startswith(comparisons.KEY))
    assert json.loads(tag)["n"] == 4
    assert len(tag) < 5000
    (found,) = comparisons.decisions(versions.read("pets"))
    assert found["n_comparisons"] == 4
    assert [decision["reason"] for decision in found["decisions"]] == [f"It is {models}." for models in "abcd"]
    assert (found["decisions"][0]["run"], found["decisions"][0]["passed"]) == ("r1", False)


def test_a_test_set_that_grew_is_counted_on(store):
    assert compare("a", image_ids(0, 1000)) == 1
    for night, size in enumerate(range(1050, 3000, 50), 2):
        assert compare(f"night {night}", image_ids(0, size)) == night
    assert len([key for key in versions.read("pets").tags if key.startswith(comparisons.KEY)]) == 1


def test_another_test_set_is_counted_from_one(store):
    assert [compare(models, image_ids(0, 300)) for models in "abc"] == [1, 2, 3]
    assert compare("d", image_ids(300, 600)) == 1
    assert compare("d", image_ids(0, 300)) == 4


def test_test_sets_with_the_same_first_image_are_counted_apart(store):
    smallest = min(image_ids(0, 600))
    first, *others = ([smallest, *image_ids(start, start + 200)] for start in (0, 200, 400))
    assert [compare(models, first) for models in "abc"] == [1, 2, 3]
    assert [[compare(models, other) for models in "de"] for other in others] == [[1, 2], [1, 2]]
    assert compare("f", first) == 4
    assert [compare("g", other) for other in others] == [3, 3]


def test_a_thousand_comparisons_fit_into_the_tag():
    made = "".join(digest(str(number))[: comparisons.COMPARISON_DIGITS] for number in range(comparisons.REMEMBERED))
    sample = "".join(comparisons.sample(image_ids(0, 1000)))
    decision = {"at": "2026-01-01T00:00:00+00:00", "run": "f" * 32, "passed": False}
    decisions = [{**decision, "reason": "x" * comparisons.REASON_CHARACTERS}] * comparisons.SHOWN
    tag = json.dumps({"n": 1000, "sample": sample, "made": made, "decisions": decisions})
    registered = Registered("pets", tags={f"{comparisons.KEY}x": tag})
    assert len(tag) < 5000
    assert comparisons.number(registered, image_ids(0, 1000), digest("0")) == 1001 - comparisons.REMEMBERED
    assert comparisons.number(registered, image_ids(0, 1000), digest("new")) == 1001


@LIKE_EVERY_TIME
@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(0, 2000))
def test_the_share_of_known_images_is_estimated(n_shared, n_gone, n_new):
    before, now = image_ids(0, n_shared + n_gone), image_ids(n_gone, n_gone + n_shared + n_new)
    share = comparisons.share_known(comparisons.sample(before), comparisons.sample(now))
    if len(before) <= comparisons.SAMPLE and len(now) <= comparisons.SAMPLE:
        assert share == pytest.approx(n_shared / len(now))
    elif n_gone == 0 and n_new == 0:
        assert share == 1.0
    elif n_gone <= n_new:
        assert share == pytest.approx(n_shared / len(now), abs=0.3)


def test_sets_without_a_common_image_share_nothing():
    before, now = (comparisons.sample(image_ids(start, start + 500)) for start in (0, 500))
    assert comparisons.share_known(before, now) == 0.0


@pytest.mark.parametrize("tag", ["{", "[]", '{"n": 1}', '{"n": "x", "sample": "", "made": ""}'])
def test_a_damaged_tag_is_named(tag):
    registered = Registered("pets", tags={f"{comparisons.KEY}abc": tag})
    with pytest.raises(RegistryError, match=r"pets: the tag comparisons.abc of the registered model is damaged"):
        comparisons.number(registered, image_ids(0, 10), digest("a"))


def test_a_run_says_what_was_decided_about_its_model(store):
    run = client().create_run("0")
    comparisons.note(run.info.run_id, {"promotion.passed": "False"}, decision="not promoted")
    assert client().get_run(run.info.run_id).data.tags["promotion.passed"] == "False"
    comparisons.note("f" * 32, {"promotion.passed": "False"}, decision="not promoted")


def test_a_deleted_run_is_ignored(store):
    run = client().create_run("0")
    client().delete_run(run.info.run_id)
    comparisons.note(run.info.run_id, {"promotion.passed": "False"}, decision="not promoted")
    assert "promotion.passed" not in client().get_run(run.info.run_id).data.tags


def registered(**references):
    """Versions 1, 2, ... with the reference of each."""
    found = {
        number.removeprefix("v"): {comparisons.REFERENCE: held} if held else {} for number, held in references.items()
    }
    return Registered("pets", versions={key: Version("pets", key, None, "", tags) for key, tags in found.items()})


def test_a_margin_is_relative_to_the_version_before_the_slide():
    pets = registered(v1=None, v2="1", v3="1", v4="4", v5="4")
    found = {key: comparisons.reference(pets, version) for key, version in pets.versions.items()}
    named = {key: version and version.version for key, version in found.items()}
    assert named == {"1": None, "2": "1", "3": "1", "4": None, "5": "4"}


def test_a_deleted_reference_is_an_error_that_says_the_way_out(store):
    for number in "12":
        client().create_model_version("pets", source=f"file:///models/{number}")
    comparisons.set_reference(versions.find("pets", version="2"), versions.find("pets", version="1"))
    client().delete_model_version("pets", "1")
    pets = versions.read("pets")
    with pytest.raises(
        RegistryError,
        match=r"pets: the margin of the champion, version 2, is relative to version 1 \(its tag margin.reference\), "
        r"which was deleted; restore that version from a backup, or set the tag to 2",
    ):
        comparisons.reference(pets, pets.versions["2"])
    client().set_model_version_tag("pets", "2", comparisons.REFERENCE, "2")
    pets = versions.read("pets")
    assert comparisons.reference(pets, pets.versions["2"]) is None
