"""Stores that refuse: each is answered with one line that says what to do, in seconds."""

import datetime
import re
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from darkroom.errors import RegistryError
from darkroom.registry import versions
from darkroom.tracking import experiments, refusals, restored, runs, store
from tests.support.trained_repository import fresh_store

pytestmark = pytest.mark.heavy
PAGE = "\n<!DOCTYPE html>\n<html><body>Please sign in</body></html>"
JSON = '{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'


@pytest.fixture
def root(tmp_path, monkeypatch):
    fresh_store(tmp_path, monkeypatch)
    return tmp_path


@contextmanager
def answering(status: int, body: str = "", *, tls: ssl.SSLContext | None = None, **headers: str) -> Iterator[str]:
    """Run a server on loopback that answers every request with this; yield host:port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the context of a server whose certificate nobody has signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        made.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "pair.pem").write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, kind, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    return context


def said(variable: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(variable, uri)
    with pytest.raises(RegistryError) as refused:
        store.client()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((401, "Who are you?"), "HTTP 401.*_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN$"),
        ((403, "no"), "denies access .HTTP 403.; ask for the permission, or correct MLFLOW_TRACKING_USERNAME"),
        ((403, JSON), "denies access .HTTP 403.; ask for the permission"),
        ((404, "not here"), "is not an MLflow server: wrong port or path, or a proxy"),
        ((200, PAGE), "is not an MLflow server: .* login page in front of it; correct MLFLOW_TRACKING_URI"),
        ((407, PAGE), "behind a proxy that asks for credentials .* NO_PROXY"),
        ((502, PAGE), "answers with HTTP 502; look into the log of the server, or of the proxy"),
    ],
)
def test_an_answer_that_is_no_success_is_explained(answer, expected, root, monkeypatch):
    with answering(*answer) as address:
        message = said("MLFLOW_TRACKING_URI", f"http://{address}", monkeypatch)
    assert message.startswith(f"the MLflow store http://{address} ")
    assert re.search(expected, message), message


def test_a_server_of_the_registry_alone_is_asked_too(root, monkeypatch):
    monkeypatch.setattr("mlflow.tracking._model_registry.utils._registry_uri", None)  # so that it is undone
    with answering(401) as address:
        message = said("MLFLOW_REGISTRY_URI", f"http://me:secret@{address}", monkeypatch)
    assert f"http://me:***@{address} asks for credentials (HTTP 401)" in message


def test_errors_of_tls_say_whose_certificate_or_which_scheme(root, monkeypatch):
    with answering(200, tls=self_signed(root)) as address:
        message = said("MLFLOW_TRACKING_URI", f"https://{address}", monkeypatch)
    assert "certificate that is not trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH" in message
    with answering(200) as address:
        message = said("MLFLOW_TRACKING_URI", f"https://{address}", monkeypatch)
    assert "does not speak TLS on this port; write http:// in MLFLOW_TRACKING_URI" in message


@pytest.mark.parametrize("uri", ["htp://127.0.0.1:5000", "localhost:5000", "http://127.0.0.1:99999"])
def test_a_uri_that_mlflow_does_not_know_is_explained(uri, root, monkeypatch):
    message = said("MLFLOW_TRACKING_URI", uri, monkeypatch)
    assert message.endswith(
        "set MLFLOW_TRACKING_URI to a server (http://...) or a database (postgresql://..., sqlite:///...)"
    )


def test_a_locked_database_is_waited_for_once(root, monkeypatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(versions, "BUSY_SECONDS", 0.01)
    other = sqlite3.connect(root / "mlflow.db")
    other.execute("BEGIN EXCLUSIVE")
    for ask in (store.client, lambda: versions.read("pets")):
        with pytest.raises(
            RegistryError, match="mlflow.db is locked by another process that writes to it; wait for that"
        ):
            ask()
    other.close()


def test_tables_of_another_mlflow_are_not_touched(root):
    with sqlite3.connect(root / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.close()
    with pytest.raises(RegistryError, match="has tables of another MLflow version; run the version that wrote them"):
        store.client()


def test_a_read_only_database_is_reported_without_a_log(root, capfd):
    from sqlalchemy import create_engine, text

    uri = f"sqlite:///file:{root}/mlflow.db?mode=ro&uri=true"
    expected = "is read-only; give this user write access to the database file and its directory"
    with (
        create_engine(uri).connect() as database,
        pytest.raises(RegistryError, match=expected),
        store.store_errors(uri),
    ):
        database.execute(text("DELETE FROM runs"))
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_reported(root):
    from sqlalchemy import create_engine

    uri = f"sqlite:///{root}/full.db"
    expected = "full.db cannot be written, the disk is full or failing; free some space"
    with create_engine(uri).connect() as database:
        database.exec_driver_sql("PRAGMA max_page_count = 2")
        with pytest.raises(RegistryError, match=expected), store.store_errors(uri):
            database.exec_driver_sql("CREATE TABLE a AS SELECT zeroblob(100000)")


def test_a_database_that_a_server_lacks_is_reported_at_once(postgres, root, monkeypatch):
    message = said("MLFLOW_TRACKING_URI", postgres.url("nowhere"), monkeypatch)
    assert re.search(
        r'/nowhere does not answer .*database "nowhere" does not exist.*or correct MLFLOW_TRACKING_URI', message
    )


def test_a_missing_driver_is_named_with_its_extra():
    for name, extra in (("boto3", "s3"), ("psycopg.errors", "postgres"), ("azure.storage", "azure")):
        error = ModuleNotFoundError(f"No module named '{name}'", name=name)
        with pytest.raises(RegistryError, match=rf"needs the package .*: .venv/bin/uv pip install -e '.\[{extra}\]'$"):
            raise refusals.refusal("http://server", error, variable="MLFLOW_TRACKING_URI")


def test_a_database_without_its_driver_is_refused_at_once(root, monkeypatch):
    message = said("MLFLOW_TRACKING_URI", "mssql+pyodbc:///nowhere", monkeypatch)
    assert "No module named 'pyodbc'" in message


def test_a_deleted_run_is_reported_with_the_way_back(root):
    with runs.run(experiment="pets", name="train-cnn", params={}, tags={}) as run:
        pass
    store.client().delete_run(run.id)
    trained = {"run_id": run.id, "experiment": "pets", "tracking_uri": run.tracking_uri}
    expected = rf"the run of cnn, {run.id}, was deleted in the MLflow store sqlite:.*; restore it with `mlflow runs"
    with pytest.raises(RegistryError, match=expected), restored.reopen_training("cnn", trained):
        pass


def test_a_name_without_versions_is_not_said_to_be_unknown(root):
    store.client().create_registered_model("pets")
    with pytest.raises(RegistryError, match="'pets' has no versions in sqlite:///.*; run `dvc repro` to train and"):
        versions.find("pets", alias="champion")


@pytest.mark.parametrize("name", ["a b ü", "100%", "a#b"])
def test_a_store_may_lie_in_a_directory_of_any_name(name, tmp_path, monkeypatch):
    folder = tmp_path / name
    folder.mkdir()
    fresh_store(folder, monkeypatch)
    assert store.sqlite_file(store.tracking_uri()) == folder / "mlflow.db"
    with runs.run(experiment="pets", name="n", params={}, tags={}) as run:
        run.log_artifact(folder / "mlflow.db")
    assert (folder / "mlartifacts" / "pets" / run.id / "artifacts" / "mlflow.db").is_file()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["my%20models", "a%2Fb", "a?b"])
def test_a_directory_that_mlflow_misreads_is_refused_at_once(name, tmp_path, monkeypatch):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    expected = re.escape(name) + r"/mlflow.db: MLflow finds no files under a path with .*; rename the directory"
    with pytest.raises(RegistryError, match=expected):
        experiments.connect("pets")
    assert list(tmp_path.rglob("*")) == [folder]


def test_a_uri_written_without_escaping_its_percent_is_refused(tmp_path, monkeypatch):
    (tmp_path / "my%20models").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/my%20models/mlflow.db")
    with pytest.raises(RegistryError, match="my%20models/mlflow.db: MLflow finds no files"):
        store.tracking_uri()


def test_escapes_of_a_uri_are_decoded_as_mlflow_decodes_them(tmp_path, monkeypatch):
    (tmp_path / "my models").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my%20models/mlflow.db")
    assert store.sqlite_file(store.tracking_uri()) == tmp_path / "my models" / "mlflow.db"
