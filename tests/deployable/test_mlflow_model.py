"""The logged model as a consumer meets it: a process without darkroom, Keras and TensorFlow."""

import base64
import json
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from darkroom.deployable.package import Package
from darkroom.tracking import runs
from tests.support.onnx_model import write_model
from tests.support.trained_repository import clean_environment, fresh_store

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*AnyType:UserWarning"),
]
CLASSES = ["cat", "dog", "owl"]
COLUMNS = ["label", "probability", "probabilities", "abstained", "prediction_set"]
SHAPE = (8, 8, 3)
CONSUMER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("darkroom", "keras", "tensorflow"):
            raise ModuleNotFoundError(f"refused: {name}", name=name)

sys.meta_path.insert(0, Refuse())
import base64, json
import mlflow, numpy as np, pandas as pd

model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
data = open(sys.argv[3], "rb").read()
text = base64.b64encode(data).decode()
frame = pd.DataFrame({"image": [data, text, sys.argv[3]]}, index=[7, 8, 9])
answers = {"array": model.predict(images), "frame": model.predict(frame)}
print(json.dumps({name: json.loads(answer.to_json(orient="split")) for name, answer in answers.items()}))
print(sorted({"darkroom", "keras", "tensorflow", "sklearn", "matplotlib"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The directory of a logged model, the ONNX file it was made from, an image file."""
    root = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        fresh_store(root, patch)
        sets = {"coverage": 0.9, "threshold": 0.9, "penalty": 0.01, "free": 1}
        onnx = write_model(root / "trained.onnx", classes=CLASSES, image_shape=SHAPE, metadata={"sets": sets})
        np.save(seen := root / "seen_ids.npy", np.arange(3, dtype=np.uint64))
        with runs.run(experiment="pets", name="train", params={}, tags={}) as run:
            uri = run.log_package(onnx, seen=seen, input_example=np.zeros((1, *SHAPE), np.uint8))
    folder = root / "mlartifacts" / "pets" / "models" / uri.removeprefix("models:/") / "artifacts"
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite(str(root / "image.png"), image)
    return folder, onnx, root / "image.png"


@pytest.fixture(scope="module")
def model(logged):
    import mlflow

    return mlflow.pyfunc.load_model(str(logged[0]))


@pytest.fixture
def png(logged):
    return logged[2].read_bytes()


def test_a_consumer_needs_neither_darkroom_nor_tensorflow(logged, tmp_path):
    folder, onnx, image = logged
    images = np.random.default_rng(1).integers(0, 256, (5, *SHAPE), np.uint8)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", CONSUMER, str(folder), str(tmp_path / "images.npy"), str(image)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=clean_environment())
    assert ended.stderr == "[]\n"
    answers = json.loads(ended.stdout)
    package = Package.load(onnx)
    assert answers["array"]["columns"] == COLUMNS
    expected = package.probabilities(images)
    found = np.array([[row[2][name] for name in CLASSES] for row in answers["array"]["data"]])
    assert np.abs(found - expected).max() < 1e-6
    assert [row[0] for row in answers["array"]["data"]] == [CLASSES[best] for best in expected.argmax(axis=1)]
    assert answers["frame"]["index"] == [7, 8, 9]
    assert len({json.dumps(row) for row in answers["frame"]["data"]}) == 1
    assert answers["frame"]["data"][0][3] is False
    listed = [answer["prediction_set"] for answer in package.predict(list(images))]
    assert [row[4] for row in answers["array"]["data"]] == listed


@pytest.mark.parametrize(("module", "package"), [("cv2", "opencv-python-headless"), ("onnxruntime", "onnxruntime")])
def test_a_consumer_is_told_which_package_is_missing(module, package, logged, tmp_path):
    program = CONSUMER.replace('("darkroom", "keras", "tensorflow")', f'("darkroom", "{module}")')
    command = [sys.executable, "-c", program, str(logged[0]), "", ""]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=clean_environment())
    assert ended.returncode == 1
    expected = f"ImportError: this model needs the package {package}, which cannot be imported (refused: {module}); "
    assert ended.stderr.splitlines()[-1] == f"{expected}install it: pip install {package}"


def test_the_folder_holds_no_pickle_and_pins_its_packages(logged):
    names = sorted(path.relative_to(logged[0]).as_posix() for path in logged[0].rglob("*") if path.is_file())
    assert {"MLmodel", "artifacts/model.onnx", "code/package.py", "mlflow_model.py"} <= set(names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
    pinned = (logged[0] / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in pinned] == [
        "mlflow",
        "onnxruntime",
        "numpy",
        "pandas",
        "opencv-python-headless",
    ]
    assert all("==" in line for line in pinned)


def test_the_signature_says_the_output_and_allows_every_input(model):
    assert model.metadata.signature.inputs is None
    assert model.metadata.signature.outputs.input_names() == COLUMNS


def test_every_form_of_an_image_gets_the_same_answer(model, logged, png):
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    forms = [png, bytearray(png), memoryview(png), base64.b64encode(png).decode(), str(logged[2]), logged[2], pixels]
    answers = model.predict(pd.DataFrame({"image": forms}))
    assert answers["label"].nunique() == 1
    assert np.ptp(answers["probability"]) < 1e-6
    by_key = model.predict({"image": [png]})
    assert by_key.loc[0, "label"] == answers.loc[0, "label"]


def test_what_the_scoring_server_parses_is_accepted(model, png):
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    text = base64.b64encode(png).decode()
    split = infer_and_parse_data({"dataframe_split": {"columns": ["image"], "data": [[text]]}})
    records = infer_and_parse_data({"dataframe_records": [{"image": text}]})
    instances = infer_and_parse_data({"instances": [text]})
    pixels = np.random.default_rng(2).integers(0, 256, (2, *SHAPE), np.uint8)
    inputs = infer_and_parse_data({"inputs": pixels.tolist()})
    labels = {model.predict(parsed).loc[0, "label"] for parsed in (split, records, instances)}
    assert len(labels) == 1
    pd.testing.assert_frame_equal(model.predict(inputs), model.predict(pixels))


def test_a_scoring_server_reads_no_files(model, logged, png, monkeypatch):
    monkeypatch.setenv("__pyfunc_model_path__", "model")
    for path in (str(logged[2]), "/etc/passwd", "../up.png"):
        with pytest.raises(ValueError, match=r"^item 0: '.*' is not base64 of an image$") as refused:
            model.predict(pd.DataFrame({"image": [path]}))
        assert "exist" not in str(refused.value)
    assert len(model.predict(pd.DataFrame({"image": [base64.b64encode(png).decode()]}))) == 1


def test_an_application_of_the_scoring_server_reads_no_files(model, logged):
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    body = json.dumps({"dataframe_records": [{"image": str(logged[2])}]})
    with pytest.raises(MlflowException) as refused:
        scoring_server.invocations(body, "application/json", model, None)
    assert "is not base64 of an image" in str(refused.value.__context__)
    assert "exist" not in str(refused.value.__context__)


def test_no_images_give_no_rows(model):
    assert len(model.predict(np.zeros((0, *SHAPE), np.uint8))) == 0
    assert len(model.predict(pd.DataFrame({"image": []}))) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame({"picture": [b""]}), r"has the columns \['picture'\], expected a column 'image'"),
        ({"picture": [b""]}, r"has the keys \['picture'\], expected 'image'"),
        (np.zeros((2, 8, 8, 3), np.float32), r"dtype float32, expected uint8 with values 0 to 255"),
        (np.full((2, 8, 8, 3), 300), r"dtype int64, expected uint8 with values 0 to 255"),
        (np.zeros((8, 8, 3), np.uint8), r"an array of shape \(8, 8, 3\) and dtype uint8, expected uint8 \(n, height"),
        (pd.DataFrame({"image": [b"not an image"]}), "item 0: .*not an image"),
        (7, "the input is a int, expected a DataFrame with a column 'image' or a uint8 array"),
    ],
)
def test_anything_else_is_refused_with_one_clear_line(model, given, message):
    with pytest.raises(ValueError, match=message):
        model.predict(given)
