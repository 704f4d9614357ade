"""What a real server does with connections: drain, clients that leave or close one side, dead workers, readiness."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import cv2
import httpx
import numpy as np
import pytest

from tests.support.served import Server, eventually, png

pytestmark = pytest.mark.heavy
HEAD = b"Host: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def server(root):
    options = ["--workers", "1", "--worker-mb", "150", "--ready-seconds", "0.1"]
    with Server(root, *options) as server:
        yield server


def predict(server, image):
    return server.client.post("/v1/predict", content=image, headers={"Content-Type": "image/png"})


def raw(server, request, *, then=None):
    """Send bytes; return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        if then:
            then(connection)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def posted(image, more=b""):
    return b"POST /v1/predict HTTP/1.1\r\n" + HEAD + more + b"Content-Length: %d\r\n\r\n" % len(image) + image


def black(side):
    """A PNG that takes a while."""
    return cv2.imencode(".png", np.zeros((side, side), np.uint8))[1].tobytes()


# Connections


def test_requests_on_one_connection_are_answered_in_order(server):
    several = [posted(png(cat=cat)) for cat in (True, False, True)]
    answer = raw(server, b"".join(several) + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert [part[:6] for part in answer.split(b'"label":')[1:]] == [b'"cat",', b'"dog",', b'"cat",']
    assert answer.count(b"connection: close") == 1


@pytest.mark.parametrize("image", [png(cat=True), black(7000)], ids=["small", "slow"])
def test_a_client_that_closes_its_side_gets_its_answer(server, image):
    answer = raw(server, posted(image), then=lambda connection: connection.shutdown(socket.SHUT_WR))
    assert (b"HTTP/1.1 200 OK" in answer, b'"label":' in answer) == (True, True)


def test_an_image_whose_client_left_is_not_decoded(server):
    image, decoded = black(7000), counted(server, "darkroom_decode_seconds_count")
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            connection.sendall(posted(image))
        eventually(lambda: waiting(server) == 4, within=30)
    eventually(lambda: waiting(server) == 0)
    assert counted(server, 'darkroom_requests_total{path="/v1/predict",status="499"}') >= 3
    assert counted(server, "darkroom_decode_seconds_count") <= decoded + 1  # that one had begun


def counted(server, name):
    return float(server.client.get("/metrics").text.partition(f"\n{name} ")[2].partition("\n")[0])


def waiting(server):
    return counted(server, "darkroom_images_waiting")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://x HTTP/1.1\r\nHost: x\r\n", 200),
        (b"GET http://x?a=b HTTP/1.1\r\nHost: x\r\n", 200),
        (b"GET /healthz HTTP/1.0\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\nHost: x\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA:\r\n b\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : x\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_a_head_is_understood_or_refused(server, request_, status):
    answer = raw(server, request_ + b"Connection: close\r\n\r\n")
    assert (int(answer.split()[1]), answer.count(b"HTTP/1.1 ")) == (status, 1)


def test_what_follows_an_offer_to_upgrade_is_read_as_http(server):
    offer = posted(png(cat=True), b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
    answer = raw(server, offer + posted(png(cat=False), b"Connection: close\r\n"))
    assert [part[:6] for part in answer.split(b'"label":')[1:]] == [b'"cat",', b'"dog",']


def test_a_body_is_requested_if_the_client_waits_for_it(server):
    image = png(cat=True)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(posted(image, b"Expect: 100-continue\r\nConnection: close\r\n").removesuffix(image))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(image)
        assert b'"label":"cat"' in b"".join(iter(lambda: connection.recv(65536), b""))


def test_pieces_of_any_size_make_a_request(server):
    image = png(cat=True)
    request = b"POST /v1/predict HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    request += b"".join(b"1\r\n%c\r\n" % byte for byte in image) + b"0\r\nTrailer: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for start in range(0, len(request), 11):
            connection.sendall(request[start : start + 11])
            time.sleep(0.0005)
        assert b'"label":"cat"' in b"".join(iter(lambda: connection.recv(65536), b""))


# Workers


def test_workers_that_are_killed_take_no_answer_along(server):
    image, before = black(7000), restarts(server, "signal")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(predict, server, image) for _ in range(4)]
        eventually(lambda: waiting(server) == 4, within=30)
        server.workers()[0].kill()
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert restarts(server, "signal") == before + 1
    assert server.events("worker_ended")[-1]["cause"] == "signal"


def test_an_image_that_takes_too_much_memory_is_refused_alone(server):
    deep = cv2.imencode(".png", np.zeros((3000, 4000, 4), np.uint16))[1].tobytes()
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(predict, server, deep)
        good = pool.submit(predict, server, png(cat=True))
        assert good.result().json()["predictions"][0]["label"] == "cat"
        refused = bad.result()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "the worker process that had this image needed more memory than it may have" in refused.json()["error"]
    assert restarts(server, "memory") >= 1
    assert predict(server, png(cat=False)).json()["predictions"][0]["label"] == "dog"


def restarts(server, cause):
    return counted(server, f'darkroom_worker_restarts_total{{cause="{cause}"}}')


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready", "/v2/models/pets/ready"])
def test_a_server_whose_images_wait_is_not_ready(server, path):
    assert server.client.get(path).status_code == 200
    image = black(7000)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(predict, server, image) for _ in range(6)]
        told = eventually(lambda: (answer := server.client.get(path)).status_code == 503 and answer.json())
        assert "s for a worker process; see /openapi.json" in told["error"]
        assert server.client.get("/healthz").status_code == 200
        assert [answer.result().json() for answer in asked if answer.result().status_code != 200] == []
    assert eventually(lambda: server.client.get(path).status_code == 200)


# The end


def test_clients_that_are_about_to_send_lose_nothing_at_the_end(root):
    with Server(root, "--drain-seconds", "20") as server, ExitStack() as stack:
        connections = [stack.enter_context(httpx.Client(base_url=server.client.base_url)) for _ in range(40)]
        for client in connections:
            assert client.get("/healthz").status_code == 200
        server.process.terminate()
        ready = eventually(lambda: (answer := server.client.get("/readyz")).status_code == 503 and answer)
        assert (ready.headers["connection"], ready.json()["error"].startswith("GET /readyz: the server is")) == (
            "close",
            True,
        )
        for client in connections:
            answer = client.post("/v1/predict", content=png(cat=True), headers={"Content-Type": "image/png"})
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        server.client.close()
        assert server.process.wait(15) == 0  # the last client has gone: no reason to wait for the 20 s


def test_idle_clients_do_not_hold_up_the_end(root):
    with Server(root, "--drain-seconds", "0.2") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as idle:
            server.process.terminate()
            assert idle.recv(100) == b""
            assert server.process.wait(60) == 0
        eventually(lambda: server.events("ended"))
