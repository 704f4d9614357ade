"""The champion as any MLflow client uses it: a fresh environment with five packages, and the address of the store.

The environment is made of the requirements.txt that lies in the logged model; what these packages need comes in the
versions of requirements.lock. Like `make setup`, that takes a package index, or the cache that `make setup` has filled.
"""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from darkroom.registry import versions
from darkroom.registry.snapshot import MODEL_FILE
from tests.support.mlflow_server import listening
from tests.support.project import ROOT
from tests.support.served import png, served_repository
from tests.support.trained_repository import SHAPE, clean_environment

pytestmark = pytest.mark.heavy
CONSUMER = """
import base64, json, sys
import mlflow, numpy as np, pandas as pd

model = mlflow.pyfunc.load_model("models:/pets@champion")
data = open("cat.png", "rb").read()
frame = pd.DataFrame({"image": [data, base64.b64encode(data).decode(), "cat.png"]})
answers = [*model.predict(frame)["label"], *model.predict(np.load("pixels.npy"))["label"]]
ours = {"darkroom", "keras", "tensorflow", "albumentations", "optuna", "dvc"}
print(json.dumps([answers, sorted(ours & set(sys.modules))]))
"""
ALONE = """
import json, onnxruntime, numpy as np

session = onnxruntime.InferenceSession("model.onnx")
metadata = json.loads(session.get_modelmeta().custom_metadata_map["darkroom"])
pixels = np.load("pixels.npy")
assert list(pixels.shape[1:]) == metadata["image_shape"] and session.get_inputs()[0].type == "tensor(uint8)"
probabilities = session.run(None, {session.get_inputs()[0].name: pixels})[0]
print(json.dumps([metadata["classes"][best] for best in probabilities.argmax(axis=1)]))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A store with a champion that tells cats from dogs, and an image and pixels of a cat beside it."""
    with served_repository(tmp_path_factory.mktemp("repository")) as root:
        (root / "cat.png").write_bytes(png(cat=True))
        pixels = np.zeros((1, *SHAPE), np.uint8)
        pixels.reshape(-1)[8] = 255
        np.save(root / "pixels.npy", pixels)
        yield root


def files_of_champion():
    folder = versions.local_folder(versions.find("pets", alias="champion").location)
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def client_bin(repository, tmp_path_factory):
    """The bin folder of an environment with what the model asks for, in the versions that it is tested with."""
    wanted = files_of_champion() / "requirements.txt"
    environment = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    uv = [
        str(Path(sys.executable).with_name("uv")),
        "pip",
        "install",
        "--quiet",
        "--python",
        environment / "bin/python",
    ]
    subprocess.run([*uv, "--requirement", wanted, "--constraint", ROOT / "requirements.lock"], check=True)
    return environment / "bin"


@pytest.fixture
def ask(repository, client_bin):
    """Return what a program prints in that environment, as JSON."""

    def ask(program):
        environment = {**environment_of(client_bin), "MLFLOW_TRACKING_URI": f"sqlite:///{repository}/mlflow.db"}
        command = [client_bin / "python", "-I", "-c", program]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=repository, env=environment)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return ask


def environment_of(client_bin):
    left_out = ("PYTHON", "DVC_", "DARKROOM_", "VIRTUAL_ENV")
    inherited = {key: value for key, value in clean_environment().items() if not key.startswith(left_out)}
    return {**inherited, "PATH": f"{client_bin}{os.pathsep}{os.environ['PATH']}"}


def test_the_environment_has_nothing_of_ours(client_bin):
    program = "import importlib.util as u; print([n for n in ('darkroom', 'keras', 'tensorflow') if u.find_spec(n)])"
    found = subprocess.run([client_bin / "python", "-I", "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_client_predicts_from_bytes_base64_paths_and_arrays(ask):
    assert ask(CONSUMER) == [["cat", "cat", "cat", "cat"], []]


def test_the_onnx_file_alone_says_its_labels_and_its_input(ask, repository):
    (repository / "model.onnx").write_bytes((files_of_champion() / MODEL_FILE).read_bytes())
    assert ask(ALONE) == ["cat"]


def test_mlflows_own_server_answers_base64_in_a_dataframe_split(repository, client_bin, tmp_path):
    command = [
        client_bin / "mlflow",
        "models",
        "serve",
        "--model-uri",
        "models:/pets@champion",
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
    ]
    environment = {**environment_of(client_bin), "MLFLOW_TRACKING_URI": f"sqlite:///{repository}/mlflow.db"}
    images = [[base64.b64encode(png(cat=cat)).decode()] for cat in (True, False)]
    body = {"dataframe_split": {"columns": ["image"], "data": images}}
    with listening(command, folder=tmp_path, environment=environment) as uri:
        answer = httpx.post(f"{uri}/invocations", json=body, timeout=60)
        refused = httpx.post(f"{uri}/invocations", json={"instances": [{"image": "/etc/passwd"}]}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert refused.status_code == 400
    assert "'/etc/passwd' is not base64 of an image" in refused.text, refused.text
    assert "root:" not in refused.text
    predictions = answer.json()["predictions"]
    assert [row["label"] for row in predictions] == ["cat", "dog"]
    assert set(predictions[0]) == {"label", "probability", "probabilities", "abstained", "prediction_set"}
    assert predictions[0]["prediction_set"] == ["cat"]
