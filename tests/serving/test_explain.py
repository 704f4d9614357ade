"""Explanations over HTTP: their content, the limit of simultaneous ones, and predictions meanwhile."""

import base64
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest

from darkroom.deployable.package import Package
from darkroom.registry.snapshot import Version
from darkroom.serving import explaining
from darkroom.serving.explaining import AbandonedError, Explaining
from darkroom.serving.messages import ABANDONED
from darkroom.serving.server import MOST_EXPLAINED
from tests.support.onnx_model import write_model
from tests.support.served import Server, eventually, png, register_pets, set_champion

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def server(root):
    with Server(root, "--explain", "--poll-seconds", "0.2", "--workers", "1") as server:
        yield server


def explain(server, content, content_type="image/png"):
    return server.client.post("/v1/explain", content=content, headers={"Content-Type": content_type})


def explainers(server):
    """The workers that give way to others; they begin to once they have loaded their version."""
    return [one for one in server.workers() if os.sched_getscheduler(one.pid) == os.SCHED_IDLE]


def pending(pid):
    """The signals that a suspended process has not taken yet, one bit each."""
    found = re.search(r"ShdPnd:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1], 16)


def picture(answer):
    encoded = answer.json()["map"].removeprefix("data:image/png;base64,")
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return pixels.astype(int)


@pytest.mark.parametrize("form", ["image", "json"])
def test_the_map_points_at_the_pixel_that_decides(server, form):
    content, kind = png(cat=False), "image/png"
    if form == "json":
        content, kind = json.dumps({"image": base64.b64encode(content).decode()}).encode(), "application/json"
    answer = explain(server, content, kind)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["version"], body["label"], body["method"]) == ("pets", "1", "dog", "RISE")
    assert body["probability"] > 0.9
    assert body["request_id"] == answer.headers["X-Request-ID"]
    colour = np.ptp(picture(answer), axis=2)  # the image is grey
    assert colour.shape == (256, 256)
    cells = colour.reshape(4, 64, 4, 64).mean(axis=(1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (0, 0)


def test_one_image_has_the_same_map_every_time(server):
    assert (picture(explain(server, png(cat=False))) == picture(explain(server, png(cat=False)))).all()


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"text", "image/png", 422, "4 bytes are not an image; expected JPEG"),
        (b'{"images": ["AAAA", "AAAA"]}', "application/json", 400, "the request has more than one image"),
        (b"", "image/png", 400, "the body is empty"),
        (b"x", "text/plain", 415, "Content-Type text/plain is not supported"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_a_reason(server, content, kind, status, said):
    answer = explain(server, content, kind)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_few_explanations_wait_and_predictions_do_not(server):
    (worker,) = explainers(server)
    assert len(server.workers()) == 2
    url = f"http://127.0.0.1:{server.port}/v1/explain"
    worker.suspend()
    try:
        with ThreadPoolExecutor(MOST_EXPLAINED + 1) as clients:
            asked = [
                clients.submit(httpx.post, url, content=png(cat=True), timeout=120, trust_env=False)
                for _ in range(MOST_EXPLAINED + 1)
            ]
            (refused,) = eventually(lambda: [one for one in asked if one.done()])
            assert refused.result().status_code == 503
            assert f"{MOST_EXPLAINED} images are already waiting" in refused.result().json()["error"]
            answer = server.client.post("/v1/predict", content=png(cat=True))
            assert answer.json()["predictions"][0]["label"] == "cat"
            assert server.client.get("/readyz").status_code == 200
            worker.resume()
            others = [one.result().json() for one in asked if one is not refused]
            assert [one["label"] for one in others] == ["cat"] * MOST_EXPLAINED
    finally:
        worker.resume()


def test_a_worker_is_told_that_its_client_left(server):
    (worker,) = explainers(server)
    eventually(lambda: worker.status() == psutil.STATUS_SLEEPING)  # it has told all about the image before
    worker.suspend()
    try:
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/v1/explain", content=png(cat=True), timeout=0.5)
        eventually(lambda: pending(worker.pid) >> (ABANDONED - 1) & 1)
    finally:
        worker.resume()
    assert explain(server, png(cat=False)).json()["label"] == "dog"
    assert explainers(server) == [worker]


def test_no_inference_follows_when_nobody_waits(tmp_path, monkeypatch):
    file = write_model(tmp_path / "model.onnx", classes=["cat", "dog"], image_shape=(8, 8, 1))
    monkeypatch.setattr(explaining, "fetch", lambda _: file)
    package, n_asked = Package.load(file), []

    class Leaving:
        classes, image_shape = package.classes, package.image_shape

        def probabilities(self, images):
            n_asked.append(len(images))
            if len(n_asked) == 2:  # the first one was the trial
                os.kill(os.getpid(), ABANDONED)
            return package.probabilities(images)

    before = signal.getsignal(ABANDONED)
    try:
        explain = Explaining(Version("pets", "1", None, "", {}), Leaving(), threads=1)
        with pytest.raises(AbandonedError):
            explain(np.zeros((8, 8, 1), np.uint8), "cat")
    finally:
        signal.signal(ABANDONED, before)
    assert (n_asked[0], len(n_asked)) == (2, 2)


def test_a_parameter_that_explains_nothing_is_refused(server):
    answer = server.client.post("/v1/explain?threshold=0.9", content=png(cat=True))
    assert answer.status_code == 400
    assert answer.json()["error"] == "/v1/explain takes no query parameters; /v1/predict takes top and threshold"


def test_explanations_are_no_predictions_in_the_counters(server):
    explain(server, png(cat=False))
    text = server.client.get("/metrics").text
    assert 'darkroom_requests_total{path="/v1/explain",status="200"}' in text
    assert 'darkroom_predictions_total{label="dog"' not in text


def test_a_promoted_version_is_explained_by_a_worker_of_its_own(server, root):
    (before,) = explainers(server)
    set_champion(register_pets(root, reads=1))
    body = eventually(lambda: (found := explain(server, png(cat=False)).json())["version"] == "2" and found)
    assert body["label"] == "cat"
    (after,) = eventually(lambda: len(found := explainers(server)) == 1 and found)
    assert after != before
