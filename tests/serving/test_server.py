"""Answers of a real server: every form, refusals with reasons, and changes of the version."""

import base64
import json
import socket
import struct
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest

from darkroom.cli import serving
from darkroom.errors import ParamsError
from darkroom.monitoring import log
from darkroom.registry import versions
from darkroom.serving.server import _address_errors, _bind
from tests.support.served import Server, eventually, png, register_pets, set_champion

pytestmark = pytest.mark.heavy
TOKEN = "a-long-secret"  # noqa: S105


@pytest.fixture(scope="module")
def server(root):
    with Server(root, "--poll-seconds", "0.2", "--log", str(root / "log")) as server:
        yield server


@pytest.fixture(scope="module")
def strict(root):
    """With limits that a test can reach."""
    (root / "token").write_text(f"{TOKEN}\n")
    options = [
        "--token-file",
        "token",
        "--max-body-mb",
        "1",
        "--max-images",
        "2",
        "--max-waiting",
        "2",
        "--workers",
        "1",
    ]
    with Server(root, *options, "--head-seconds", "1", "--body-seconds", "0.5", "--no-access-log") as server:
        server.client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield server


def predict(server, content, content_type="image/png", **headers):
    return server.client.post("/v1/predict", content=content, headers={"Content-Type": content_type, **headers})


def predict_json(server, value):
    return predict(server, json.dumps(value).encode(), "application/json")


def encoded(data):
    return base64.b64encode(data).decode()


# Answers


def test_a_raw_image_is_answered_with_label_and_version(server):
    answer = predict(server, png(cat=True))
    assert answer.status_code == 200
    body = answer.json()
    (prediction,) = body["predictions"]
    assert (body["model"], body["version"], prediction["label"]) == ("pets", "1", "cat")
    assert prediction["probability"] == prediction["probabilities"]["cat"] > 0.9
    assert (prediction["abstained"], prediction["prediction_set"]) == (False, ["cat"])


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "IMAGE/JPEG; q=1", ""])
def test_a_raw_image_may_come_under_any_of_these_types(server, content_type):
    assert predict(server, png(cat=False), content_type).json()["predictions"][0]["label"] == "dog"


@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_json_holds_one_image_or_several(server, before):
    one = predict_json(server, {"image": before + encoded(png(cat=True))})
    several = predict_json(server, {"images": [before + encoded(png(cat=cat)) for cat in (True, False)]})
    assert [prediction["label"] for prediction in one.json()["predictions"]] == ["cat"]
    assert [prediction["label"] for prediction in several.json()["predictions"]] == ["cat", "dog"]


def test_a_form_holds_files_and_other_fields_are_ignored(server):
    files = [("a", ("a.png", png(cat=False))), ("b", ("b.png", png(cat=True)))]
    answer = server.client.post("/v1/predict", files=files, data={"note": "hello"})
    assert [prediction["label"] for prediction in answer.json()["predictions"]] == ["dog", "cat"]


def test_images_of_a_larger_request_are_answered_in_order(server):
    cats = [bool(number % 3) for number in range(64)]
    answer = predict_json(server, {"images": [encoded(png(cat=cat)) for cat in cats]})
    assert [prediction["label"] == "cat" for prediction in answer.json()["predictions"]] == cats


def test_unreadable_images_have_an_error_the_others_an_answer(server):
    answer = predict_json(server, {"images": [encoded(b"text"), encoded(png(cat=True)), "%%%", ""]})
    assert answer.status_code == 200
    text, cat, no_base64, empty = answer.json()["predictions"]
    assert "4 bytes are not an image; expected JPEG" in text["error"]
    assert cat["label"] == "cat"
    assert "not base64" in no_base64["error"]
    assert "0 bytes: the file is empty" in empty["error"]


def test_where_no_image_can_be_read_the_status_says_so(server):
    answer = predict_json(server, {"images": [encoded(b"text"), encoded(b"more text")]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("none of the 2 images can be read: 4 bytes are not an image")
    assert (answer.json()["model"], len(answer.json()["predictions"])) == ("pets", 2)


def test_the_model_is_described_with_its_limits(server):
    facts = server.client.get("/v1/model").json()
    assert (facts["model"], facts["version"], facts["alias"], facts["problem"]) == ("pets", "1", "champion", None)
    assert (facts["classes"], facts["image_shape"]) == (["cat", "dog"], [4, 4, 1])
    assert (facts["max_pixels"], facts["max_images"], facts["max_body_bytes"]) == (50_000_000, 64, 16 << 20)


def test_a_server_without_explanations_says_how_to_get_them(server):
    answer = server.client.post("/v1/explain", content=png(cat=True))
    assert answer.status_code == 404
    assert answer.json()["error"] == "this server does not explain its answers; start it with --explain"
    assert server.client.get("/v1/model").json()["explain"] is False


def test_probes_answer(server):
    assert server.client.get("/healthz").json() == {"status": "ok"}
    assert server.client.get("/readyz").json() == {"status": "ready"}


def test_prometheus_is_told_requests_images_and_version(server):
    predict(server, png(cat=True))
    predict(server, b"text")
    text = server.client.get("/metrics").text
    for line in (
        'darkroom_requests_total{path="/v1/predict",status="200"}',
        'darkroom_requests_total{path="/v1/predict",status="422"}',
        'darkroom_predictions_total{label="cat",version="1"}',
        'darkroom_model_info{model="pets",version="1"} 1.0',
        "darkroom_images_waiting 0.0",
        "darkroom_images_refused_total",
        "darkroom_batch_images_bucket",
        "process_resident_memory_bytes",
    ):
        assert line in text


def test_a_request_has_a_line_in_the_log(server):
    eventually(lambda: server.client.get("/nowhere") and server.events("request")[-1]["status"] == 404)
    predict(server, png(cat=True))
    line = eventually(lambda: server.events("request")[-1]["status"] == 200 and server.events("request")[-1])
    assert line.keys() == {"time", "event", "request_id", "method", "path", "status", "ms", "n_images", "version"}
    assert (line["method"], line["path"], line["status"], line["n_images"]) == ("POST", "/v1/predict", 200, 1)


# Bad input: always a 4xx with a sentence


def png_header(width, height):
    """A PNG that says it has this size and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


PHOTOGRAPH = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
BASE64 = encoded(png(cat=True))
BAD = {
    "text as an image": (b"hello, this is text", "image/png", 422, "19 bytes are not an image; expected JPEG"),
    "a cut-off file": (png(cat=True)[:40], "image/png", 422, "not an image that can be decoded"),
    "a file that is only a beginning": (PHOTOGRAPH[:100], "image/jpeg", 422, "not an image"),
    "100 megapixels": (
        png_header(10_000, 10_000),
        "image/png",
        422,
        "10000x10000 pixels; the limit is 50000000 pixels",
    ),
    "nothing": (b"", "image/png", 400, "the body is empty; send one image as it is"),
    "another type": (b"a=1", "application/x-www-form-urlencoded", 415, "x-www-form-urlencoded is not supported"),
    "no JSON": (b"{image:", "application/json", 400, "the body is not JSON"),
    "JSON in no encoding": (b'{"image": "\xff"}', "application/json", 400, "the body is not JSON"),
    "JSON of another form": (b'{"picture": "AAAA"}', "application/json", 400, "does not have the expected form"),
    "JSON with something more": (f'{{"image": "{BASE64}", "a": 1}}'.encode(), "application/json", 400, "expected form"),
    "no images": (b'{"images": []}', "application/json", 400, "does not have the expected form"),
    "a number": (b'{"image": 5}', "application/json", 400, "does not have the expected form"),
    "no base64": (b'{"image": "&&&&"}', "application/json", 422, "not base64"),
    "letters that are no ASCII": ('{"image": "ééé"}'.encode(), "application/json", 422, "not base64"),
    "a path": (b'{"image": "/etc/passwd"}', "application/json", 422, "not"),
    "deep JSON": (b'{"image":' * 200_000, "application/json", 400, "does not have the expected form"),
    "wide JSON": (b"[" + b"[]," * 1_000_000 + b"[]]", "application/json", 400, "does not have the expected form"),
    "a long number": (b'{"image": ' + b"9" * 100_000 + b"}", "application/json", 400, "not JSON"),
    "too many images": (json.dumps({"images": ["AAAA"] * 65}).encode(), "application/json", 400, "more than 64 images"),
    "a form without a boundary": (b"--x", "multipart/form-data", 400, "has no boundary"),
    "a form that is none": (b"hello", "multipart/form-data; boundary=x", 400, "the form cannot be read"),
    "a form that ends too early": (
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nabc',
        "multipart/form-data; boundary=x",
        400,
        "ends before its last boundary",
    ),
    "a form without a file": (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nabc\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
        400,
        "the form has no file",
    ),
    "a form with thousands of parts": (
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n\r\n' * 20_000 + b"--x--",
        "multipart/form-data; boundary=x",
        400,
        "more than 64 images",
    ),
    "a form with thousands of fields": (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 20_000 + b"--x--",
        "multipart/form-data; boundary=x",
        400,
        "more than 16 fields",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_sentence_and_logged(server, name):
    content, content_type, status, sentence = BAD[name]
    n_lines = len(server.lines)
    answer = predict(server, content, content_type)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    for line in eventually(lambda: server.lines[n_lines:]):
        assert json.loads(line)["event"]


def test_a_compressed_body_is_not_understood(server):
    answer = predict(server, b"x", **{"Content-Encoding": "gzip"})
    assert (answer.status_code, "Content-Encoding" in answer.json()["error"]) == (415, True)


def test_another_method_and_another_path_are_refused_in_json(server):
    wrong = server.client.get("/v1/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "GET /v1/predict: Method Not Allowed" in wrong.json()["error"]
    missing = server.client.get("/v2/predict")
    assert (missing.status_code, "see /openapi.json" in missing.json()["error"]) == (404, True)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_200_megabytes_is_refused_before_it_is_sent(strict, declared):
    before, n_sent = strict.megabytes(), 0
    with socket.create_connection(("127.0.0.1", strict.port), timeout=60) as connection:
        length = "Content-Length: 200000000" if declared else "Transfer-Encoding: chunked"
        head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{length}\r\n\r\n"
        connection.sendall(head.encode())
        piece = b"x" * 100_000
        connection.settimeout(0.001)
        answer = b""
        while not answer and n_sent < 200_000_000:
            connection.settimeout(60)
            connection.sendall(piece if declared else b"%x\r\n%s\r\n" % (len(piece), piece))
            n_sent += len(piece)
            connection.settimeout(0.001)
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
        connection.settimeout(60)
        while b"}" not in answer:
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body is larger than 1048576 bytes; send smaller or fewer images" in answer
    assert n_sent < 50_000_000
    assert strict.megabytes() - before < 20


def test_a_client_that_sends_its_body_too_slowly_is_told_so(strict):
    with socket.create_connection(("127.0.0.1", strict.port), timeout=60) as connection:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n\r\nabc"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # head and body may come apart
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive within 0.5 s (3 bytes did)" in answer


def test_a_connection_that_never_completes_a_head_is_closed(strict):
    with socket.create_connection(("127.0.0.1", strict.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nX: ")
        assert connection.recv(100) == b""


CHUNKED = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("GET /healthz HTTP/1.1\r\n", "X-Field: " + "x" * 990 + "\r\n"),
        ("GET /healthz HTTP/1.1\r\nX-Field: ", "x" * 1000),
        ("GET /", "x" * 1000),
        (CHUNKED + "1\r\na\r\n0\r\n", "X-Field: " + "x" * 990 + "\r\n"),
        (CHUNKED + "1;", "x" * 1000),
    ],
    ids=["fields", "a field", "an address", "fields behind the body", "what a chunk says of itself"],
)
def test_a_request_that_never_ends_beside_its_body_is_cut_off(strict, start, piece):
    before, n_sent, answer = strict.megabytes(), 0, b""
    with socket.create_connection(("127.0.0.1", strict.port), timeout=60) as connection:
        connection.sendall(start.encode())
        with suppress(ConnectionError):
            while n_sent < 50_000_000:
                connection.sendall(piece.encode() * 10)
                n_sent += 10 * len(piece)
        with suppress(ConnectionError):
            answer = connection.recv(65536)
    assert n_sent < 20_000_000  # most of it in the buffers of the system
    assert strict.megabytes() - before < 20
    # A client that goes on sending may find the connection reset before it can read the answer.
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 400 ") and b"Invalid HTTP request received." in answer)
    assert strict.client.get("/healthz").status_code == 200


def test_an_offer_to_upgrade_changes_nothing(strict):
    """Java's client makes one with every request."""
    answer = predict(strict, png(cat=True), Connection="Upgrade, HTTP2-Settings", Upgrade="h2c")
    assert answer.json()["predictions"][0]["label"] == "cat"


def test_a_client_that_never_reads_its_answers_is_cut_off(strict):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", strict.port))
        ours = connection.getsockname()[1]

        def is_there():
            found = psutil.Process(strict.process.pid).net_connections("tcp")
            return any(one.raddr and one.raddr.port == ours for one in found)

        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)  # 12 MB of answers
        eventually(is_there)
        eventually(lambda: not is_there(), within=60)


def test_a_request_is_answered_beside_a_thousand_connections(server):
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
        assert httpx.post(
            f"http://127.0.0.1:{server.port}/v1/predict", content=png(cat=True), timeout=30, trust_env=False
        ).json()["predictions"]


def test_more_than_may_wait_is_refused_with_a_retry_time(strict):
    picture = cv2.imencode(".png", np.zeros((5000, 5000), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: predict(strict, picture), range(16)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "images are already waiting; try again in a second" in refused.json()["error"]
    assert predict(strict, png(cat=True)).status_code == 200


def test_the_process_does_not_grow_with_bad_input(server):
    def round_of_bad_input():
        for content, content_type, *_ in BAD.values():
            predict(server, content, content_type)
        return server.megabytes()

    round_of_bad_input()
    before = round_of_bad_input()
    for _ in range(3):
        after = round_of_bad_input()
    assert after - before < 15


# The token


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/predict"), ("POST", "/v1/feedback"), ("GET", "/v1/model"), ("GET", "/metrics")]
)
def test_without_the_token_nothing_is_told_about_the_model(strict, method, path, header):
    with httpx.Client(base_url=f"http://127.0.0.1:{strict.port}", trust_env=False, timeout=60) as client:
        answer = client.request(method, path, headers=header)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "send it as `Authorization: Bearer TOKEN`" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/openapi.json", "/static/page.js"])
def test_probes_page_and_description_are_open(strict, path):
    answer = httpx.get(f"http://127.0.0.1:{strict.port}{path}", trust_env=False, timeout=60)
    assert answer.status_code == 200


def test_the_description_says_which_paths_ask_for_the_token(server, strict):
    described = strict.client.get("/openapi.json").json()
    asking = {path for path, methods in described["paths"].items() for one in methods.values() if "security" in one}
    assert asking == described["paths"].keys() - {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert described["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    assert "securitySchemes" not in server.client.get("/openapi.json").json()["components"]


def test_with_the_token_requests_are_answered_without_a_line(strict):
    assert predict(strict, png(cat=True)).status_code == 200
    assert strict.events("request") == []


# Versions


def test_a_moving_alias_is_followed_without_a_failed_request(server, root):
    first, second, third = (register_pets(root, reads=reads) for reads in (0, 1, 2))
    (versions.fetch(third)).write_bytes(b"tampered")
    failed, ended, seen = [], threading.Event(), set()

    def ask():
        with httpx.Client(base_url=server.client.base_url, trust_env=False, timeout=60) as client:
            while not ended.is_set():
                answer = client.post("/v1/predict", content=png(cat=True))
                failed.extend([answer.text] if answer.status_code != 200 else [])
                seen.add(answer.json()["version"])

    def facts():
        return server.client.get("/v1/model").json()

    def is_served(version):
        return facts()["version"] == version

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        for version in (second, first, second):
            set_champion(version)
            eventually(partial(is_served, version.version))
        set_champion(third)
        problem = eventually(lambda: facts()["problem"])
        assert "it was changed after registration and is not loaded; still serving version 2" in problem
        assert server.client.get("/readyz").status_code == 200
        assert predict(server, png(cat=True)).json()["version"] == "2"
        set_champion(first)
        eventually(lambda: facts()["version"] == "1" and facts()["problem"] is None)
    finally:
        ended.set()
        for thread in asking:
            thread.join()
    assert (failed, seen) == ([], {"1", "2"})
    assert [line["version"] for line in server.events("version_taken")][-4:] == ["2", "1", "2", "1"]
    assert len(server.events("version_refused")) == 1


def test_a_version_may_be_fixed(root):
    register_pets(root, reads=1)
    with Server(root, "--version", "2") as fixed:
        assert predict(fixed, png(cat=True)).json()["version"] == "2"
        assert fixed.client.get("/v1/model").json()["alias"] is None
        check_cheap_start(fixed)


def test_a_version_that_knows_the_unknown_tells_it_everywhere(root, tmp_path):
    version = register_pets(root, reads=0, tells=True).version
    pixels = np.zeros((4, 4), np.uint8)
    pixels[2, 0] = pixels[-1, -1] = 255
    strange = cv2.imencode(".png", pixels)[1].tobytes()
    inputs = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [encoded(png(cat=True)), encoded(strange)]}
    with Server(root, "--version", version, "--log", str(tmp_path / "log")) as telling:
        several = predict_json(telling, {"images": inputs["data"]}).json()["predictions"]
        outputs = telling.client.post("/v2/models/pets/infer", json={"inputs": [inputs]}).json()["outputs"]
        described = telling.client.get("/v2/models/pets").json()["outputs"]
        unknown = f'darkroom_unknown_total{{version="{version}"}} 2.0'
        eventually(lambda: unknown in telling.client.get("/metrics").text)
    assert [[one[key] for key in ("label", "familiarity", "unknown", "abstained")] for one in several] == [
        ["cat", 1.0, False, False],
        ["cat", 0.001, True, True],
    ]
    by_name = {one["name"]: one["data"] for one in outputs}
    assert (by_name["familiarity"], by_name["unknown"]) == ([1.0, 0.001], [False, True])
    assert [one["name"] for one in described] == list(by_name)
    rows = log.read(tmp_path / "log").to_pylist()
    assert sorted(row["familiarity"] for row in rows) == pytest.approx([0.001, 0.001, 1, 1])


# Beginning and end


def check_cheap_start(server):
    """4 s from start to ready is the promise; seconds of the processor do not depend on what else the machine does."""
    processes = [psutil.Process(server.process.pid), *server.workers()]
    used = sum(sum(one.cpu_times()[:2]) for one in processes)
    libraries = {Path(file.path).parts for one in processes for file in one.memory_maps()}
    assert used < 4
    assert not {"tensorflow", "sqlalchemy", "pandas"} & {part for parts in libraries for part in parts}  # so no MLflow


def test_sigterm_lets_requests_in_flight_be_answered(root, tmp_path):
    slow = cv2.imencode(".png", np.zeros((7000, 7000), np.uint8))[1].tobytes()
    with Server(root, "--workers", "1", "--log", str(tmp_path / "log")) as server, ThreadPoolExecutor(3) as pool:
        predict(server, png(cat=True))
        predict(server, b"text")
        predict_json(server, {"images": [encoded(png(cat=False)), encoded(png(cat=True))]})
        url = f"http://127.0.0.1:{server.port}/v1/predict"
        answers = [pool.submit(httpx.post, url, content=slow, timeout=60, trust_env=False) for _ in range(3)]
        eventually(lambda: "darkroom_images_waiting 3.0" in server.client.get("/metrics").text or answers[0].done())
        assert server.stop() == 0
        assert [answer.result().status_code for answer in answers] == [200] * 3
    assert server.events("ended")
    rows = log.read(tmp_path / "log").to_pylist()
    small = [row for row in rows if (row["width"], row["height"]) == (4, 4)]
    assert sorted(row["label"] for row in small) == ["cat", "cat", "dog"]
    assert (len(rows), {row["version"] for row in rows}) == (6, {"1"})
    assert all(row["confidence"] > 0.4 and len(row["id"]) == 64 for row in rows)
    assert {row["familiarity"] for row in rows} == {None}, "the version does not tell it"
    lines = [line["request_id"] for line in server.events("request") if line["n_images"] and line["status"] == 200]
    assert {row["request_id"] for row in rows} == {*lines}
    assert sorted(row["position"] for row in rows) == [0, 0, 0, 0, 0, 1]


def test_a_missing_alias_ends_the_command_with_one_line(root):
    server = Server(root, "--alias", "nobody")
    assert server.process.wait(60) == 1
    server.stop()
    (line,) = server.lines
    assert line.startswith("error: pets has no alias 'nobody'; its versions: 1")


def test_two_that_begin_at_once_on_one_port_do_not_both_serve():
    first = _bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    with first, _bind("127.0.0.1", port) as second:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=60)
        first.listen()
        with (
            pytest.raises(ParamsError, match=f"127.0.0.1:{port}: Address already in use; choose another"),
            _address_errors("127.0.0.1", port),
        ):
            second.listen()
        with pytest.raises(ParamsError, match=f"127.0.0.1:{port}: Address already in use; choose another"):
            _bind("127.0.0.1", port)


@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9, 1.2, 1.5, 1.8])
def test_sigterm_ends_the_process_at_any_moment_of_its_start(root, seconds):
    """0, or the signal's own death before the version is loaded, or 143 before the command has begun."""
    server = Server(root, "--log", str(root / "log"))
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(seconds)
    assert server.stop() in (0, 143, -15)


def test_a_port_that_is_taken_is_reported_at_once(root, server):
    second = Server(root, "--port", str(server.port))
    assert second.process.wait(60) == 2
    second.stop()
    assert "Address already in use; choose another --host or --port" in second.lines[-1]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), ("", "expected one word"), ("a b", "expected one word")]
)
def test_a_token_file_without_a_token_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(ParamsError, match=f"--token-file .*token.*{said}"):
        serving._token(tmp_path / "token")
