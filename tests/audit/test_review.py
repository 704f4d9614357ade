"""The page of `darkroom audit --review`, over HTTP and in a real browser."""

import threading

import httpx
import pytest

from darkroom.audit import review
from darkroom.audit.decisions import Decisions
from darkroom.audit.findings import Finding
from darkroom.audit.run import Audit
from darkroom.data.arrays.dataset import Dataset
from darkroom.data.preparation.corrections import Correction, read_corrections, write_corrections
from tests.support.chromium import chromium
from tests.support.flipped_digits import digits, write_prepared

FOUND = [
    Finding("label", 5, 0.01, 3, [6, 7, 8], 0),
    Finding("label", 9, 0.02, 4, [10, 11], 1),
    Finding("twins", 12, suggested=2, beside=[13]),
    Finding("outlier", 14, beside=[15, 16]),
    Finding("blank", 5),
]
SECRET = "of-the-address"  # noqa: S105 - of a server that ends with the test


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    root = tmp_path_factory.mktemp("review")
    images, _, flipped = digits()
    write_prepared(root, images[:40], flipped[:40])
    return Audit(Dataset.open(root / "data" / "prepared"), FOUND, 40, 40, 0, [], [])


@pytest.fixture
def decisions(audited, tmp_path):
    return Decisions(tmp_path / "data" / "corrections.csv", audited.dataset, who="ann@desk")


@pytest.fixture
def address(audited, decisions):
    """The page, served as the command does."""
    ready, said = threading.Event(), []

    def tell(text: str) -> None:
        said.extend(text.split()[2].split("#"))
        ready.set()

    server = review.server(review.findings(audited, then="Commit it."), decisions, secret=SECRET)
    thread = threading.Thread(target=review.serve, args=(server,), kwargs={"port": 0, "secret": SECRET, "said": tell})
    thread.start()
    assert ready.wait(20)
    assert said[1] == SECRET
    yield said[0]
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, headers={"X-Review": SECRET}) as client:
        yield client


def decided(decisions: Decisions) -> list[tuple[str, str]]:
    return [(line.old, line.new) for line in read_corrections(decisions.path)]


def test_a_decision_is_a_line_and_undo_takes_it_back(client, decisions, audited):
    index = audited.dataset.index()
    write_corrections(decisions.path, [Correction("0" * 64, "a", "b", "bob", "then")])
    for new in ("3", "drop"):
        assert client.post("/decisions", json={"row": 5, "new": new}).json() == {"made": [5] * (1 + (new == "drop"))}
    label = index["label"][5]
    assert decided(decisions) == [("a", "b"), (label, "drop")], "the last decision about an image counts"
    last = read_corrections(decisions.path)[-1]
    assert (last.id, last.who) == (index["id"][5], "ann@desk")
    for left in ([("a", "b"), (label, "3")], [("a", "b")]):
        assert client.post("/undo").json()["row"] == 5
        assert decided(decisions) == left


def test_what_makes_no_sense_is_refused(client, decisions):
    answer = client.post("/decisions", json={"row": 5, "new": "eleven"})
    assert (answer.status_code, answer.text[:25]) == (400, "'eleven' is not a class; ")
    assert client.post("/decisions", json={"row": 99, "new": "3"}).status_code == 400
    assert client.get("/images/99", params={"secret": SECRET}).status_code == 404
    assert client.post("/undo").json() == {"row": None, "made": []}
    assert not decisions.path.exists()


def test_without_the_secret_nothing_is_seen_or_changed(client, decisions):
    for headers in ({"X-Review": ""}, {"X-Review": "x"}):
        assert client.get("/findings", headers=headers).status_code == 403
        assert client.post("/decisions", json={"row": 5, "new": "3"}, headers=headers).status_code == 403
        assert client.post("/undo", headers=headers).status_code == 403
    assert [client.get("/images/5", params=given).status_code for given in ({}, {"secret": "x"})] == [403, 403]
    assert client.get("/images/5", params={"secret": SECRET}).headers["content-type"] == "image/png"
    assert SECRET not in client.get("/").text
    assert not decisions.path.exists()


def test_names_of_other_machines_are_refused(client):
    assert client.get("/findings", headers={"Host": "elsewhere.example"}).status_code == 400
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_undo_restores_the_line_that_a_decision_replaced(decisions, audited):
    index = audited.dataset.index()
    image, label = index["id"][5], index["label"][5]
    lines = [Correction(image, label, "3", "bob", "then"), Correction(image, "3", "4", "bob", "then")]
    write_corrections(decisions.path, lines)
    decisions.decide(5, "drop")
    assert decided(decisions) == [("3", "4"), (label, "drop")]
    decisions.decide(5, "7")
    for kept in ([("3", "4"), (label, "drop")], [(label, "3"), ("3", "4")]):
        assert decisions.undo() == 5
        assert decided(decisions) == kept
    assert read_corrections(decisions.path) == lines


def test_undo_leaves_what_another_review_decided_since(decisions, audited):
    other = Decisions(decisions.path, audited.dataset, who="bob@desk")
    for one, new in ((decisions, "3"), (other, "4")):
        one.decide(5, new)
    assert decisions.undo() == 5
    assert [line.who for line in read_corrections(decisions.path)] == ["bob@desk"]


@pytest.mark.heavy
def test_the_page_is_worked_by_keys_and_fits_a_phone(address, decisions, audited, tmp_path):
    labels = audited.dataset.index()["label"]
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{address}#{SECRET}")
        page.get_by_text("1 of 4").wait_for()
        assert page.locator("#neighbours li").count() == 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for key, place in (("s", "2 of 4, 1 decided"), ("k", "3 of 4, 2 decided"), ("ArrowRight", "4 of 4, 2 decided")):
            page.keyboard.press(key)
            page.get_by_text(place, exact=True).wait_for()
        page.keyboard.press("c")
        page.keyboard.type("7")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="All images were looked at.").wait_for()
        page.keyboard.press("u")
        page.get_by_text("4 of 4, 2 decided", exact=True).wait_for()
        page.get_by_role("button", name="Drop the image").click()
        page.get_by_role("heading", name="All images were looked at.").wait_for()
        assert complaints == []
    assert decided(decisions) == [(labels[5], "3"), (labels[9], labels[9]), (labels[14], "drop")]
