"""The server conforms to its OpenAPI document for generated requests (schemathesis)."""

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.served import Server, served_repository

pytestmark = pytest.mark.heavy
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with (
        served_repository(tmp_path_factory.mktemp("openapi")) as root,
        Server(root, "--log", "log", "--explain") as server,
    ):
        yield server


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/predict"),
        ("POST", "/v1/explain"),
        ("POST", "/v1/feedback"),
        ("GET", "/v1/model"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/v2"),
        ("GET", "/v2/models/{name}"),
        ("POST", "/v2/models/{name}/infer"),
    ],
)
def test_generated_requests_are_answered_as_described(server, method, path):
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checked = settings(max_examples=25 if method == "POST" else 2, deadline=None, derandomize=True, database=None)

    @checked
    @given(case=described[path][method].as_strategy())
    def check(case):
        case.call_and_validate(checks=CHECKS)

    check()


def test_all_that_a_client_may_ask_is_described_with_examples(server):
    description = server.client.get("/openapi.json").json()
    posted = {"/v1/predict", "/v1/explain", "/v1/feedback"}
    of_protocol = {path for path in description["paths"] if path.startswith("/v2")}
    assert set(description["paths"]) == {*posted, "/v1/model", "/healthz", "/readyz", "/metrics", *of_protocol}
    labels = description["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in labels.values():
        assert server.client.post("/v1/feedback", json=example["value"]).json()["n_stored"] == 1
    operation = description["paths"]["/v1/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "image/*",
        "application/octet-stream",
        "multipart/form-data",
        "application/json",
    }
    assert set(operation["responses"]) == {"200", "400", "401", "405", "408", "413", "415", "422", "500", "503"}
    for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
        answer = server.client.post("/v1/predict", json=example["value"])
        assert answer.status_code == 200
        assert set(answer.json()) == set(operation["responses"]["200"]["content"]["application/json"]["example"])
