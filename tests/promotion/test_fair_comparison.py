"""Champion and candidate on the same original files, as sent by consumers, and on images that neither has seen."""

import pytest

from darkroom.errors import DataError
from darkroom.files.writing import sha256_of
from darkroom.promotion.comparison import compare_versions
from darkroom.registry import versions
from darkroom.tracking.store import client
from tests.support.signals import Signals

pytestmark = pytest.mark.heavy
MIXED = {"colour": 0.95, "fine": 0.95, "sides": 0.8}


@pytest.fixture
def signals(tmp_path, monkeypatch):
    return Signals(tmp_path, monkeypatch)


def champion(signals, signal, **changes):
    """Promote a first model."""
    signals.prepare(**changes)
    signals.train(signal)
    assert signals.promote()["decision"] == "promoted"
    return versions.find("signals", alias="champion")


@pytest.mark.parametrize(("signal", "changes"), [("colour", {"color": "grey"}), ("fine", {"image_size": [8, 8]})])
def test_a_champion_of_another_form_is_asked_the_originals(signals, signal, changes):
    signals.add(250, right=MIXED)
    first = champion(signals, signal)
    signals.prepare(**changes)
    signals.train("sides")
    report = signals.promote()
    assert report["decision"] == "kept", report["reasons"]
    test = report["tests"]["champion"]
    assert test["champion_accuracy"] == signals.right(first) > 0.9
    assert test["candidate_accuracy"] == pytest.approx(0.8, abs=0.06)


def test_a_larger_candidate_is_seen_to_be_better(signals):
    signals.add(250, right=MIXED)
    first = champion(signals, "sides", image_size=[8, 8], color="grey")
    signals.prepare(image_size=[16, 16], color="rgb")
    signals.train("colour")
    report = signals.promote()
    assert report["decision"] == "promoted", report["reasons"]
    assert report["tests"]["champion"]["champion_accuracy"] == signals.right(first) < 0.9
    second = versions.find("signals", alias="champion")
    assert report["tests"]["champion"]["candidate_accuracy"] == signals.right(second) > 0.9


def test_new_images_are_asked_in_their_own_directory(signals):
    signals.add(60, right=MIXED)
    for code, label in enumerate(("left", "right")):
        signals.drop(120, label, code, right=MIXED)
    champion(signals, "colour")
    signals.prepare(color="grey")
    signals.train("sides")
    report = signals.promote()
    assert report["decision"] == "kept"
    assert report["tests"]["champion"]["champion_accuracy"] > 0.9


def test_without_the_originals_another_form_is_not_compared(signals):
    signals.add(100, right=MIXED)
    for code, label in enumerate(("left", "right")):
        signals.drop(50, label, code, right=MIXED)
    champion(signals, "sides")
    signals.prepare(color="grey")
    signals.train("sides")
    kept, lost = signals.root / "data" / "incoming" / "left", signals.root / "left"
    kept.rename(lost)
    report = signals.promote()
    assert (report["decision"], report["tests"]) == ("kept", {})
    (reason,) = report["reasons"]
    assert (
        "Version 1 prepares images otherwise (another form, or other code), so it is scored on the original" in reason
    )
    assert "data/incoming: 'left/000" in reason
    assert "is gone (and " in reason
    assert "restore it, for example with `dvc pull`, or run `dvc repro preprocess`." in reason
    lost.rename(kept)
    assert signals.promote()["tests"]["champion"]["status"] == "failed"


def test_an_original_that_was_changed_is_not_compared(signals):
    signals.add(100, right=MIXED)
    champion(signals, "sides")
    signals.prepare(color="grey")
    signals.train("sides")
    signals.add(100, right=MIXED, first=1000)
    assert "has changed since it was prepared; restore it or run" in signals.promote()["reasons"][0]


def test_models_of_one_form_do_not_need_the_originals(signals):
    signals.add(250, right=MIXED)
    champion(signals, "sides")
    signals.train("colour")
    (signals.root / "data" / "raw" / "images.tar").unlink()
    assert signals.promote()["decision"] == "promoted"


def test_a_champion_decodes_by_the_code_that_it_brings(signals):
    """Its package.py turns every image upside down in brightness; it was trained on such images."""
    signals.add(250, right=MIXED)
    signals.prepare()
    signals.train("colour", inverted=True)
    signals.params["promote"]["gates"]["min_test_accuracy"] = 0.0
    signals.promote()
    first = versions.find("signals", alias="champion")
    code = versions.fetch(first, "code/package.py")
    text = code.read_text().replace("return prepare(content,", "return 255 - prepare(content,")
    assert text != code.read_text()
    code.write_text(text)
    client().set_model_version_tag("signals", "1", "sha256/code/package.py", sha256_of(code))
    signals.train("sides")
    report = signals.promote()
    assert report["decision"] == "kept"
    assert (
        report["tests"]["champion"]["champion_accuracy"] == signals.right(versions.find("signals", version="1")) > 0.9
    )


def test_versions_of_two_forms_are_compared_on_the_originals(signals):
    signals.add(250, right=MIXED)
    champion(signals, "sides", image_size=[8, 8], color="grey")
    signals.prepare(image_size=[16, 16], color="rgb")
    signals.train("fine")
    signals.promote()
    found = [versions.find("signals", version=number) for number in ("1", "2")]
    said = compare_versions(*found, data=signals.root / "data" / "prepared")
    assert [said["accuracy_a"], said["accuracy_b"]] == [signals.right(version) for version in found]
    (signals.root / "data" / "raw" / "images.tar").unlink()
    with pytest.raises(
        DataError, match=r"Version 1 prepares images otherwise \(another form, or other code\), so it is"
    ):
        compare_versions(*found, data=signals.root / "data" / "prepared")


def test_after_another_seed_only_unseen_images_are_compared(signals):
    """Both models know their training images by heart and are equally good on others."""
    signals.add(200, right={"colour": 0.8, "fine": 0.8, "sides": 0.8})
    champion(signals, None)
    before = signals.split("test")
    signals.prepare(seed=8)
    signals.train(None)
    both = before & signals.split("test")
    report = signals.promote()
    test = report["tests"]["champion"]
    assert (report["decision"], test["loss"], test["n_images"]) == ("kept", False, len(both))
    n_seen = len(signals.split("test") - both)
    assert f"{n_seen} images were not compared: one of the models was trained or tuned on them." in report["reasons"]
    assert abs(test["difference"]) < 0.15


def test_too_few_unseen_images_give_no_verdict(signals):
    signals.add(250, right=MIXED)
    champion(signals, "sides", test_fraction=0.2)
    before = signals.split("test")
    signals.prepare(seed=8)
    signals.train("colour")
    report = signals.promote()
    assert report["decision"] == "kept"
    n_unseen = len(before & signals.split("test"))
    assert f"only {n_unseen} were not seen by either model in training or tuning, too few" in " ".join(
        report["reasons"]
    )


def test_a_champion_that_names_no_seen_images_is_compared_on_all(signals):
    signals.add(250, right=MIXED)
    champion(signals, "sides")
    client().delete_model_version_tag("signals", "1", "sha256/artifacts/seen_ids.npy")
    signals.prepare(seed=8)
    signals.train("colour")
    report = signals.promote()
    assert report["decision"] == "promoted"
    assert report["tests"]["champion"]["n_images"] == len(signals.split("test"))
    assert "Version 1 does not say which images it was trained on; it may have seen some of these" in " ".join(
        report["reasons"]
    )


def test_a_class_is_only_given_up_with_approval(signals):
    signals.add(150, classes=("left", "right", "up"), right=MIXED)
    champion(signals, "sides")
    signals.add(150, right=MIXED)
    signals.prepare()
    signals.train("colour")
    report = signals.promote()
    assert report["decision"] == "awaiting_approval", report["reasons"]
    assert "The champion knows up, the candidate does not; losing a class needs an approval." in report["reasons"]
    assert versions.read("signals").aliases["champion"] == "1"


def test_a_champion_that_fails_on_recent_images_is_replaced(signals):
    """New images look otherwise: what the champion reads says the opposite there."""
    signals.add(250, official=True, right={"colour": 0.95, "fine": 0.95, "sides": 0.95})
    champion(signals, "sides", recent_fraction=0.4)
    for code, label in enumerate(("left", "right")):
        signals.drop(150, label, code, right={"colour": 0.95, "fine": 0.95, "sides": 0.05})
    signals.prepare()
    signals.train("colour")
    report = signals.promote()
    assert report["decision"] == "promoted", report["reasons"]
    assert report["tests"]["champion_recent"]["champion_accuracy"] < 0.2
    assert "The gain on the recent images decides" in report["tests"]["champion"]["sentence"]
    assert report["tests"]["champion_recent"]["n_images"] == len(signals.split("recent"))
