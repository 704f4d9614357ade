"""An S3 server as DVC remote and as MLflow's artifact store; skipped where the extra s3 or moto's server is missing.

To run it: `.venv/bin/uv pip install -e '.[s3]' 'moto[s3,server]'`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from darkroom.errors import RegistryError
from darkroom.registry import register, versions
from darkroom.tracking import store
from tests.support import mlflow_server
from tests.support.trained_repository import fresh_store, prepare, train

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An S3 server with the buckets `data` and `mlflow`; the variables that name it are set."""
    for package in ("moto", "dvc_s3", "boto3"):
        pytest.importorskip(package)
    import boto3

    folder = tmp_path_factory.mktemp("s3")
    command: list[str | Path] = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"]
    with (
        mlflow_server.listening(command, folder=folder, environment=dict(os.environ), started="Running on") as uri,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", uri)
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", uri)
        for bucket in ("data", "mlflow"):
            boto3.client("s3").create_bucket(Bucket=bucket)
        yield


def test_dvc_pushes_to_s3_and_pulls_from_it(s3: None, tmp_path: Path) -> None:
    def run(*command: str) -> None:
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "--quiet")
    run(*dvc, "init", "--quiet")
    run(*dvc, "remote", "add", "--quiet", "--default", "storage", "s3://data/darkroom")
    (tmp_path / "image.bin").write_bytes(b"image")
    run(*dvc, "add", "--quiet", "image.bin")
    run(*dvc, "push", "--quiet")
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    (tmp_path / "image.bin").unlink()
    run(*dvc, "pull", "--quiet")
    assert (tmp_path / "image.bin").read_bytes() == b"image"


def test_a_version_in_s3_is_registered_and_loaded(s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_store(tmp_path, monkeypatch)
    prepare(tmp_path)
    artifacts = ("--default-artifact-root", "s3://mlflow/runs", "--no-serve-artifacts")
    with mlflow_server.running(tmp_path, artifacts=artifacts) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        package = train(tmp_path, reads=0)
        onnx = (tmp_path / "models" / "cnn" / "model.onnx").read_bytes()
        digest = hashlib.sha256(onnx).hexdigest()
        version = register.register("pets", model_uri=package, model_sha256=digest, tags={})
        assert version.location.startswith("s3://mlflow/runs/")
        images = np.load(tmp_path / "data" / "prepared" / "images-00000.npy")[:4]
        expected = versions.load(version).probabilities(images)
        assert register.verify(version, images, expected) == 0
        assert versions.damage(version) == []


def test_a_bucket_that_is_missing_is_one_line(s3: None, tmp_path: Path) -> None:
    import boto3

    (tmp_path / "a").write_text("a")
    expected = "keeps its artifacts in S3, where the bucket is not found; correct MLFLOW_S3_ENDPOINT_URL"
    with pytest.raises(RegistryError, match=expected), store.store_errors("http://server"):
        boto3.client("s3").upload_file(str(tmp_path / "a"), "nowhere", "a")
