"""Ids of requests, true labels and kept images, at a real server."""

import base64
import hashlib
import json
import re
import signal

import httpx
import pytest

from darkroom.monitoring import log
from darkroom.monitoring.accuracy import served_accuracy
from darkroom.monitoring.feedback import read_feedback
from darkroom.monitoring.kept_images import stored_images
from tests.support.served import Server, eventually, png

pytestmark = pytest.mark.heavy
TOKEN = "a-long-secret"  # noqa: S105


@pytest.fixture(scope="module")
def server(root):
    with Server(root, "--log", str(root / "log"), "--keep-images", "1") as server:
        yield server


def send(server, value, **headers):
    return server.client.post("/v1/feedback", json=value, headers=headers)


def predict(server, image, **headers):
    return server.client.post("/v1/predict", content=image, headers={"Content-Type": "image/png", **headers})


# Ids of requests


def test_the_id_of_a_request_is_in_answer_header_and_log(server):
    answer = predict(server, png(cat=True), **{"X-Request-ID": "till-7:0042/a=b"})
    assert (answer.json()["request_id"], answer.headers["x-request-id"]) == ("till-7:0042/a=b",) * 2
    lines = eventually(lambda: [one for one in server.events("request") if one["request_id"] == "till-7:0042/a=b"])
    assert (lines[0]["path"], lines[0]["status"]) == ("/v1/predict", 200)


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é", "a;b", "ab" * 32, "AB" * 32, "{}"])
def test_an_id_that_is_not_well_formed_is_replaced(server, given):
    answers = [
        predict(server, png(cat=True), **({} if given is None else {"X-Request-ID": given.encode()})) for _ in range(2)
    ]
    own = [answer.json()["request_id"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in own)
    assert own[0] != own[1]
    assert [answer.headers["x-request-id"] for answer in answers] == own


@pytest.mark.parametrize(
    ("method", "path", "status", "in_body"),
    [
        ("GET", "/v1/model", 200, True),
        ("GET", "/v1/predict", 405, True),
        ("GET", "/nowhere", 404, True),
        ("POST", "/v1/predict", 400, True),
        ("POST", "/v1/feedback", 400, True),
        ("GET", "/healthz", 200, False),
        ("GET", "/readyz", 200, False),
        ("GET", "/metrics", 200, False),
        ("GET", "/", 200, False),
        ("GET", "/openapi.json", 200, False),
    ],
)
def test_every_answer_has_an_id(server, method, path, status, in_body):
    answer = server.client.request(method, path, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (status, ["mine"])
    if in_body:
        assert answer.json()["request_id"] == "mine"


def test_a_broken_image_has_an_id_too(server):
    answer = predict(server, b"text", **{"X-Request-ID": "mine"})
    assert (answer.status_code, answer.json()["request_id"], answer.headers["x-request-id"]) == (422, "mine", "mine")


# True labels


@pytest.mark.parametrize("form", ["id", "sha256", "request_id", "several"])
def test_a_label_is_on_the_disk_when_it_is_answered(server, root, form):
    sha256 = hashlib.sha256(form.encode()).hexdigest()
    before, _ = read_feedback(root / "log")
    answer = send(
        server,
        {
            "id": {"id": sha256, "label": "dog"},
            "sha256": {"sha256": sha256.upper(), "label": "dog"},
            "request_id": {"id": "till-7", "position": 2, "label": "dog"},
            "several": {"feedback": [{"id": sha256, "label": "dog"}, {"id": "till-8", "label": "dog"}]},
        }[form],
    )
    new = read_feedback(root / "log")[0][len(before) :]
    assert answer.status_code == 200
    assert answer.json() == {
        "request_id": answer.headers["x-request-id"],
        "n_stored": len(new),
        "unknown_classes": [],
    }
    assert [(one.id, one.label, one.position) for one in new] == {
        "request_id": [("till-7", "dog", 2)],
        "several": [(sha256, "dog", None), ("till-8", "dog", None)],
    }.get(form, [(sha256, "dog", None)])


def test_a_class_that_the_model_does_not_know_is_stored(server, root):
    answer = send(server, {"id": "z", "label": "zebra"})
    assert (answer.status_code, answer.json()["unknown_classes"]) == (200, ["zebra"])
    assert read_feedback(root / "log")[0][-1].label == "zebra"
    text = server.client.get("/metrics").text
    assert 'darkroom_feedback_total{known="false"}' in text
    assert 'darkroom_requests_total{path="/v1/feedback",status="200"}' in text


BAD = {
    "no JSON": ("{", 400, "the body is not JSON"),
    "nothing": ("", 400, "the body is not JSON"),
    "deep": ("[" * 100_000, 400, "the body is not JSON"),
    "a list": ("[]", 400, "expected|valid dictionary"),
    "no label": ('{"id": "x"}', 400, "label: Field required"),
    "no image": ('{"label": "x"}', 400, "expected either id or sha256"),
    "two images": ('{"id": "x", "sha256": "y", "label": "x"}', 400, "expected either id or sha256"),
    "no sha256": ('{"sha256": "abc", "label": "x"}', 400, "64 hex digits"),
    "no id": ('{"id": "a b", "label": "x"}', 400, "64 hex digits"),
    "a position": ('{"id": "x", "position": -1, "label": "x"}', 400, "position: "),
    "another key": ('{"id": "x", "label": "x", "colour": 1}', 400, "colour: Extra inputs"),
    "none of several": ('{"feedback": []}', 400, "feedback: "),
    "one of several": ('{"feedback": [{"id": "x", "label": "cat"}, {"id": "x"}]}', 400, "feedback: 1: label: Field"),
    "1,001": (json.dumps({"feedback": [{"id": "x", "label": "cat"}] * 1001}), 400, "at most 1000"),
    "a slip": ('{"id": "x", "label": "Cat"}', 422, "from the class cat in case .* alone.*; known classes: cat, dog"),
    "a path": ('{"id": "x", "label": "../cat"}', 422, "without a slash.*; known classes: cat, dog"),
    "a newline": ('{"id": "x", "label": "a\\nb"}', 422, "printable.*; known classes: cat, dog"),
    "half a letter": ('{"id": "x", "label": "\\ud800"}', 400, "label: Input should be a valid string"),
    "a long label": (json.dumps({"id": "x", "label": "x" * 201}), 400, "label: String should have at most 200"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_body_is_refused_with_a_sentence_and_not_stored(server, root, name):
    body, status, sentence = BAD[name]
    before = read_feedback(root / "log")
    answer = server.client.post("/v1/feedback", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert re.search(sentence, answer.json()["error"])
    assert "\n" not in answer.json()["error"]
    assert read_feedback(root / "log") == before


def test_what_is_too_large_or_no_json_is_refused(server):
    assert send(server, {"id": "x", "label": "x" * (1 << 20)}).status_code == 413
    for headers in ({"Content-Type": "image/png"}, {"Content-Encoding": "gzip"}):
        answer = server.client.post("/v1/feedback", content=b"{}", headers=headers)
        assert answer.status_code == 415


def test_feedback_needs_a_log_and_the_token(root):
    with Server(root, environment={"DARKROOM_SERVE_TOKEN": TOKEN}) as server:
        value = {"id": "x", "label": "cat"}
        assert send(server, value).status_code == 401
        server.client.headers["Authorization"] = f"Bearer {TOKEN}"
        answer = send(server, value)
        assert (answer.status_code, "start it with --log" in answer.json()["error"]) == (404, True)
        assert server.client.get("/v1/model").json()["feedback"] is False


def test_a_full_disk_is_said_and_predictions_go_on(root, tmp_path):
    (tmp_path / "log").write_text("a file where the directory should be")
    with Server(root, "--log", str(tmp_path / "log")) as server:
        answer = send(server, {"id": "x", "label": "cat"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert "the feedback cannot be stored: " in answer.json()["error"]
        assert predict(server, png(cat=True)).status_code == 200


# What becomes of them


def test_what_was_served_is_judged_by_what_came_back(root, tmp_path):
    with Server(root, "--log", str(tmp_path), "--keep-images", "1") as server:
        cat = predict(server, png(cat=True)).json()["request_id"]
        both = [base64.b64encode(png(cat=True) + bytes(n)).decode() for n in (1, 2)]
        two = server.client.post("/v1/predict", json={"images": both}).json()["request_id"]
        several = [{"id": cat, "label": "cat"}, {"id": two, "position": 1, "label": "dog"}]
        assert send(server, {"feedback": several}).json()["n_stored"] == 2
        assert server.stop() == 0
    rows, (labels, _) = log.read(tmp_path), read_feedback(tmp_path)
    (found,) = served_accuracy(rows, labels).versions
    assert (found.version, found.n_labelled, found.n_correct) == ("1", 2, 1)
    assert {path.read_bytes() for path in stored_images(tmp_path).values()} == {
        png(cat=True) + bytes(n) for n in range(3)
    }


def test_labels_that_were_answered_survive_a_kill(root, tmp_path):
    with Server(root, "--log", str(tmp_path)) as server:
        with httpx.Client(base_url=server.client.base_url, trust_env=False, timeout=60) as client:
            for number in range(20):
                client.post("/v1/feedback", json={"id": f"r{number}", "label": "cat"})
            server.process.send_signal(signal.SIGKILL)
        server.process.wait(60)
    assert [one.id for one in read_feedback(tmp_path)[0]] == [f"r{number}" for number in range(20)]


def test_no_image_is_kept_unless_that_is_asked_for(root, tmp_path):
    with Server(root, "--log", str(tmp_path / "log")) as server:
        predict(server, png(cat=True))
        server.stop()
    assert log.read(tmp_path / "log").num_rows == 1
    assert stored_images(tmp_path / "log") == {}
    refused = Server(root, "--keep-images", "0.5")
    assert refused.process.wait(60) == 2
    refused.stop()
    expected = "--keep-images needs a log's directory; also pass --log DIRECTORY"
    assert refused.lines[-1].endswith(expected)
