"""What a real server does with the heads of requests: methods, targets, lengths, tokens, traces, parameters."""

import base64
import json
import re
import resource
import socket
import struct

import pytest

from tests.support.served import Server, eventually, png
from tests.support.trained_repository import SETS

pytestmark = pytest.mark.heavy
TOKEN = "a-long-secret"  # noqa: S105
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONFIG = """
serve:
  root-path: pets/
  cors_origin: [https://shop.example]
  log: log
  keep_images: 1
  max_images: 5
  alias: nobody
other: {of: another program}
"""


@pytest.fixture(scope="module")
def server(root):
    """Its options come from a file, from variables that go before it, and from the command line."""
    (root / "serve.yaml").write_text(CONFIG)
    environment = {
        "DARKROOM_SERVE_TOKEN": TOKEN,
        "DARKROOM_SERVE_POLL_SECONDS": "0.1",
        "DARKROOM_SERVE_MAX_IMAGES": "3",
        "DARKROOM_SERVE_ALIAS": "nobody else",
    }
    with Server(root, "--config", "serve.yaml", "--alias", "champion", environment=environment) as server:
        server.client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield server
    assert [line for line in server.lines if not isinstance(json.loads(line), dict)] == []


def predict(server, query="", content=None, **headers):
    content = png(cat=True) if content is None else content
    return server.client.post(f"/v1/predict{query}", content=content, headers={"Content-Type": "image/png", **headers})


def raw(server, request):
    """Send bytes; return the status, and all that comes until the server closes, at the latest after 10 s."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split()[1]), answer


def test_options_come_from_command_variables_and_file(server):
    facts = server.client.get("/v1/model").json()
    assert (facts["alias"], facts["max_images"], facts["feedback"]) == ("champion", 3, True)
    assert facts["coverage"] == SETS["coverage"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/openapi.json", "/v1/model", "/static/page.js"])
def test_head_is_answered_as_get_without_a_body(server, path):
    for _ in range(2):  # on one connection: a body would be taken for the next answer
        head, get = (server.client.request(method, path) for method in ("HEAD", "GET"))
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length"):
            assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", ["/v1/predict", "/nowhere"])
def test_head_of_what_cannot_be_got_is_refused(server, path):
    answers = [server.client.request(method, path) for method in ("HEAD", "GET")]
    assert answers[0].status_code == answers[1].status_code >= 400
    assert answers[0].content == b""


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/healthz/", "/v1/model/", "/v1/predict/", "/v1//model"])
def test_a_slash_more_is_another_path_and_no_redirect(server, method, path):
    answer = server.client.request(method, path)
    assert (answer.status_code, "see /openapi.json" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR "])
def test_the_scheme_of_the_token_may_be_in_any_case(server, scheme):
    assert server.client.get("/v1/model", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("given", [TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", f"Bearer{TOKEN}", "Bearer é"])
def test_anything_but_the_token_is_refused(server, given):
    assert server.client.get("/v1/model", headers={"Authorization": given.encode()}).status_code == 401


AUTHORIZED = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n".encode()


@pytest.mark.parametrize("target", [b"POST /v1/predict", b"GET /healthz", b"POST /v1/feedback"])
def test_a_length_and_chunks_at_once_end_the_connection(server, target):
    both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    hidden = b"GET /v1/model HTTP/1.1\r\n" + AUTHORIZED + b"\r\n"
    status, answer = raw(server, target + b" HTTP/1.1\r\n" + AUTHORIZED + both + hidden)
    assert (status, answer.count(b"HTTP/1.1 ")) == (400, 1)


@pytest.mark.parametrize(
    ("target", "token", "status"),
    [
        (b"GET http://x/healthz", False, 200),
        (b"GET HTTP://x:8000/v1/model?a=b", True, 200),
        (b"GET http://x/pets/v1/model", True, 200),
        (b"GET http://x/v1/model", False, 401),
        (b"GET http://x/pets/v1/model", False, 401),
        (b"GET http://x/nowhere", False, 404),
        (b"GET http://[x/v1/model", True, 200),
        (b"OPTIONS *", False, 404),
    ],
)
def test_a_target_may_be_absolute(server, target, token, status):
    head = AUTHORIZED if token else b"Host: x\r\n"
    assert raw(server, target + b" HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n")[0] == status


def test_a_client_that_closes_its_side_within_a_body_is_let_go(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\n" + AUTHORIZED + b"Content-Length: 9\r\n\r\nhalf")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"HTTP/1.1 200" not in answer


def test_an_image_may_be_posted_to_an_absolute_target(server):
    image = png(cat=True)
    head = AUTHORIZED + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(image)
    status, answer = raw(server, b"POST http://x/v1/predict?top=1 HTTP/1.1\r\n" + head + image)
    assert (status, b'"probabilities":{"cat":' in answer) == (200, True)


def test_a_proxy_may_leave_its_prefix_on_the_path_or_strip_it(server):
    for prefix in ("", "/pets"):
        assert server.client.post(f"{prefix}/v1/predict", content=png(cat=True)).status_code == 200
        assert server.client.get(f"{prefix}/").status_code == 200
        refused = server.client.get(f"{prefix}/v1/model", headers={"Authorization": ""})
        assert refused.status_code == 401
    assert server.client.get("/pets").status_code == 404
    assert server.client.get("/openapi.json").json()["servers"] == [{"url": "/pets"}]


def test_pages_of_a_named_origin_may_ask_and_others_not(server):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    headers = {"Access-Control-Request-Headers": "authorization,content-type,x-request-id", "Authorization": ""}
    allowed = server.client.options("/v1/predict", headers={**asked, **headers})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    answer = predict(server, Origin="https://shop.example")
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    other = predict(server, Origin="https://other.example")
    assert (other.status_code, "access-control-allow-origin" in other.headers) == (200, False)


# Traces


@pytest.mark.parametrize("path", ["/v1/predict", "/healthz", "/nowhere"])
def test_a_trace_is_handed_on_in_answer_and_log(server, path):
    trace = TRACE.replace("0af", f"{sum(path.encode()):03x}")
    answer = server.client.request("POST" if path == "/v1/predict" else "GET", path, headers={"traceparent": trace})
    assert answer.headers["traceparent"] == trace
    (line,) = eventually(lambda: [one for one in server.events("request") if one.get("traceparent") == trace])
    assert (line["path"], line["request_id"]) == (path, answer.headers["x-request-id"])


@pytest.mark.parametrize("given", [TRACE.replace("00-", "01-", 1), TRACE.replace("00-", "cc-", 1) + "-more-of-it"])
def test_a_trace_of_a_later_version_is_handed_on(server, given):
    assert server.client.get("/healthz", headers={"traceparent": given}).headers["traceparent"] == given


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-more",
        TRACE + "0",
        TRACE.replace("00-", "01-", 1).encode() + b"-\xff",
        TRACE.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)
def test_what_is_no_trace_is_dropped(server, given):
    assert "traceparent" not in server.client.get("/healthz", headers={"traceparent": given}).headers


# Parameters of a prediction


def test_only_the_most_probable_classes_are_told(server):
    (whole,), (top,) = (predict(server, query).json()["predictions"] for query in ("", "?top=1"))
    assert top == {**whole, "probabilities": {"cat": whole["probabilities"]["cat"]}}
    assert predict(server, "?top=9").json()["predictions"] == [whole]
    (dog,) = predict(server, "?top=2", png(cat=False)).json()["predictions"]
    assert list(dog["probabilities"]) == ["dog", "cat"]


@pytest.mark.parametrize(("threshold", "abstained"), [("0", False), ("1", True), ("0.5", False), (".9999999", True)])
def test_a_threshold_of_the_request_decides_what_is_abstained(server, threshold, abstained):
    (answer,) = predict(server, f"?threshold={threshold}&top=1").json()["predictions"]
    assert answer["abstained"] is abstained
    assert len(answer["probabilities"]) == 1


@pytest.mark.parametrize(
    "query",
    [
        "top=0", "top=-1", "top=1.5", "top=", "top=%C2%B2", "top=1&top=2", "top=9999999999", "topk=1", "threshold=2",
        "threshold=-0.1", "threshold=nan", "threshold=inf", "threshold=", "threshold=1e999",
        f"threshold={'1' * 60_000}x", "&".join(["a=1"] * 5000),
    ],
)  # fmt: skip
def test_another_parameter_or_value_is_refused(server, query):
    answer = predict(server, f"?{query}")
    assert answer.status_code == 400
    assert "the query parameters of a prediction are top (" in answer.json()["error"]


def test_an_unreadable_image_has_its_error_with_parameters(server):
    answer = predict(server, "?top=1&threshold=1", b"text")
    assert (answer.status_code, list(answer.json()["predictions"][0])) == (422, ["error"])


# The Open Inference Protocol


def inferred(server, model="pets", *, images=None, n_json=0, **more):
    """Ask as Triton's client does: the images behind the JSON, each behind its length."""
    images = [png(cat=True), png(cat=False)] if images is None else images
    behind = b"".join(struct.pack("<I", len(image)) + image for image in images)
    parameters = {"binary_data_size": len(behind)}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images), 1], "parameters": parameters}
    told = json.dumps({"inputs": [tensor], **more}).encode()
    headers = {"Inference-Header-Content-Length": str(n_json or len(told))}
    return server.client.post(f"/v2/models/{model}/infer", content=told + behind, headers=headers)


def test_server_and_model_are_described_as_the_protocol_has_them(server):
    ask = server.client.get
    assert [ask(f"/v2/health/{what}").json() for what in ("live", "ready")] == [{"live": True}, {"ready": True}]
    assert ask("/v2").json()["extensions"] == ["binary_tensor_data"]
    model = ask("/v2/models/pets").json()
    assert ask("/v2/models/pets/versions/1").json() == model
    assert (model["name"], model["versions"], model["parameters"]) == ("pets", ["1"], {"classes": ["cat", "dog"]})
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    answer = server.client.post(
        "/v2/models/pets/infer",
        json={
            "inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png(cat=True)).decode()]}
            ]
        },
    ).json()
    described = [(one["name"], one["datatype"], len(one["shape"])) for one in model["outputs"]]
    assert [(one["name"], one["datatype"], len(one["shape"])) for one in answer["outputs"]] == described
    assert ask("/v2/models/pets/versions/1/ready").json() == {"name": "pets", "ready": True}


def test_outputs_are_those_of_a_prediction(server):
    expected = [predict(server, content=png(cat=cat)).json()["predictions"][0] for cat in (True, False)]
    answer = inferred(server, "pets/versions/1", id="of the client").json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("pets", "1", "of the client")
    outputs = {one["name"]: one["data"] for one in answer["outputs"]}
    for name in ("label", "probability", "abstained"):
        assert outputs[name] == [one[name] for one in expected]
    assert outputs["probabilities"] == [one["probabilities"][name] for one in expected for name in ("cat", "dog")]
    assert outputs["prediction_set"] == [name in one["prediction_set"] for one in expected for name in ("cat", "dog")]


def test_outputs_come_behind_the_json_if_requested(server):
    outputs = [
        {"name": "probability", "parameters": {"binary_data": False}},
        *({"name": one} for one in ("label", "abstained", "probabilities")),
    ]
    answer = inferred(server, outputs=outputs, parameters={"binary_data_output": True})
    end = int(answer.headers["inference-header-content-length"])
    told, behind = json.loads(answer.content[:end]), answer.content[end:]
    probability, *packed = told["outputs"]
    sizes = [one["parameters"]["binary_data_size"] for one in packed]
    assert (sizes, len(behind)) == ([14, 2, 16], 32)
    assert behind[:16] == b"\3\0\0\0cat\3\0\0\0dog\0\0"
    cat, _, _, dog = struct.unpack("<4f", behind[16:])
    assert (cat, dog) == tuple(probability["data"])
    assert "data" not in packed[0]


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"model": "dogs"}, 404, "'dogs' is not served here; pets version 1 is"),
        ({"model": "pets/versions/2"}, 404, "'pets' version '2' is not served here; pets version 1 is"),
        ({"images": [b"text"]}, 422, "4 bytes are not an image"),
        ({"images": [png(cat=True), b"text"]}, 422, "image 1: 4 bytes are not an image"),
        ({"images": [b""] * 4}, 400, "the request has more than 3 images"),
        ({"images": []}, 400, "inputs.0.shape.0"),
        ({"n_json": 10**6}, 400, "Inference-Header-Content-Length is not"),
        ({"outputs": [{"name": "score"}]}, 400, "outputs.0.name: Input should be 'label', 'probability'"),
        (
            {"outputs": [{"name": "familiarity"}]},
            400,
            "pets version 1 does not tell familiarity; its outputs are label,",
        ),
    ],
)
def test_a_request_of_the_protocol_is_refused_with_a_sentence(server, asked, status, said):
    answer = inferred(server, **asked)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    counter = f'darkroom_requests_total{{path="/v2/models/MODEL/infer",status="{status}"}}'
    eventually(lambda: metric(server, counter))


def test_images_of_a_refused_request_are_not_answered(server):
    counter = "darkroom_batch_images_sum"
    earlier = metric(server, counter) or 0
    inferred(server, images=[png(cat=True)])
    eventually(lambda: metric(server, counter) > earlier)  # noted after the answer, as those of other tests are
    before = metric(server, counter)
    assert inferred(server, outputs=[{"name": "familiarity"}]).status_code == 400
    inferred(server, images=[png(cat=True)])
    eventually(lambda: metric(server, counter) > before)
    assert metric(server, counter) == before + 1, "the images of the refused request are two"


@pytest.mark.parametrize("path", ["dogs", "dogs/ready", "pets/versions/2", "pets/versions/2/ready"])
def test_another_model_is_neither_described_nor_ready(server, path):
    answer = server.client.get(f"/v2/models/{path}")
    assert (answer.status_code, "is not served here; pets version 1 is" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("path", ["", "/models/pets", "/models/pets/ready", "/models/pets/infer", "/health/live"])
def test_the_token_guards_all_of_the_protocol_but_its_probes(server, path):
    method = "POST" if path.endswith("infer") else "GET"
    answer = server.client.request(method, f"/v2{path}", headers={"Authorization": ""})
    assert answer.status_code == (200 if path == "/health/live" else 401)


# What an operator is told


def metric(server, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.client.get("/metrics").text, re.M)
    return float(found[1]) if found else None


def test_seconds_are_told_by_what_they_were_spent_on(server):
    names = [f"darkroom_{part}_seconds" for part in ("queue", "decode", "network")]
    after = [metric(server, f"{name}_count") + 1 for name in names]
    predict(server)
    eventually(lambda: [metric(server, f"{name}_count") for name in names] == after)  # noted after the answer
    assert all(0 <= metric(server, f"{name}_sum") < 60 for name in names)


def test_a_stale_model_is_reported_and_a_registry_that_is_back(server, root):
    assert metric(server, "darkroom_model_stale") == 0
    before = metric(server, "darkroom_registry_read_timestamp_seconds")
    eventually(lambda: metric(server, "darkroom_registry_read_timestamp_seconds") > before)
    (root / "mlflow.db").rename(root / "away.db")
    try:
        eventually(lambda: metric(server, "darkroom_model_stale") == 1)
        assert predict(server).status_code == 200
    finally:
        (root / "away.db").rename(root / "mlflow.db")
    eventually(lambda: metric(server, "darkroom_model_stale") == 0)
    eventually(lambda: server.events("registry_readable"))
    assert server.client.get("/v1/model").json()["problem"] is None


def test_a_full_disk_of_the_log_is_reported_and_survived(server, root):
    predict(server, content=png(cat=True) + b"before")
    eventually(lambda: list((root / "log" / "kept" / "images").glob("*/[!.]*")))
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        dropped = metric(server, 'darkroom_log_dropped_total{what="images"}')
        for number in range(3):
            assert predict(server, content=png(cat=True) + bytes([number])).status_code == 200
        eventually(lambda: metric(server, 'darkroom_log_dropped_total{what="images"}') >= dropped + 3)
        refused = server.client.post("/v1/feedback", json={"id": "x", "label": "cat"})
        assert (refused.status_code, "cannot be stored" in refused.json()["error"]) == (503, True)
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
    predict(server, content=png(cat=True) + b"after")
    eventually(lambda: server.events("log_written"))
    (said,) = server.events("log_not_written")
    assert "the disk (or a quota) is full" in said["message"]
    assert server.client.post("/v1/feedback", json={"id": "x", "label": "cat"}).status_code == 200


def test_the_description_knows_refused_methods_and_failures(server):
    described = server.client.get("/openapi.json").json()
    for path in described["paths"].values():
        for operation in path.values():
            assert {"405", "500"} <= operation["responses"].keys()
    parameters = {one["name"] for one in described["paths"]["/v1/predict"]["post"]["parameters"]}
    assert parameters == {"X-Request-ID", "traceparent", "top", "threshold"}
