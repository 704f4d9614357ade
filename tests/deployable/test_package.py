import ast
import base64
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from darkroom.deployable import package
from darkroom.deployable.code_files import IMPORTED
from darkroom.deployable.images import Form
from darkroom.deployable.package import Package
from tests.support.image_files import STILLS, picture, png
from tests.support.onnx_model import write_model

CLASSES = ["cat", "dog", "猫 <b>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", classes=CLASSES, image_shape=(16, 16, 3))


@pytest.fixture(scope="module")
def classifier(model):
    return Package.load(model, threads=1)


# --- decoding


def test_a_pixel_bomb_is_refused_before_it_is_decoded(classifier):
    with pytest.raises(ValueError, match="30000x30000 pixels; the limit is 50000000"):
        classifier.decode(png(30_000, 30_000))


def test_images_take_the_form_that_the_metadata_say(tmp_path):
    said = {"resize": "letterbox", "background": [1, 2, 3], "white_level": 4095}
    path = write_model(tmp_path / "m.onnx", classes=CLASSES, image_shape=(16, 16, 3), metadata=said)
    package = Package.load(path)
    assert package.form == Form((16, 16), "rgb", "letterbox", (1, 2, 3), 4095)
    assert package.decode(STILLS["png"])[0, 0].tolist() == [1, 2, 3]


def test_the_pixel_limit_is_an_argument(model):
    small = Package.load(model, max_pixels=48 * 64 - 1)
    with pytest.raises(ValueError, match="64x48 pixels; the limit is 3071 pixels"):
        small.decode(STILLS["png"])
    assert Package.load(model, max_pixels=48 * 64).decode(STILLS["png"]).shape == (16, 16, 3)


def test_pixels_may_be_a_view(classifier):
    view = picture()[::-1, ::2]
    assert classifier.predict([view]) == classifier.predict([view.copy()])


# --- loading


def test_the_file_says_its_classes_shape_and_colour(classifier):
    assert (classifier.classes, classifier.image_shape, classifier.color) == (CLASSES, (16, 16, 3), "rgb")
    assert classifier.metadata["dataset"] == "tiny"


def test_a_missing_file_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match=r"none.onnx: no such file"):
        Package.load(tmp_path / "none.onnx")


def test_a_file_that_is_not_onnx_is_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"model.onnx: ONNX Runtime cannot load this file") as caught:
        Package.load(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_a_model_without_metadata_is_refused(tmp_path, model):
    bare = onnx.load(model)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="no metadata 'darkroom'; expected a model exported by darkroom"):
        Package.load(tmp_path / "bare.onnx")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"classes": None}, "not valid: 'classes'"),
        ({"color": "grey"}, "contradict each other"),
        ({"classes": ["one"]}, r"its metadata says tensor\(uint8\) \['n', 16, 16, 3\] to \['n', 1\]"),
        ({"image_shape": [8, 8, 3]}, "its metadata says"),
    ],
)
def test_metadata_that_contradict_the_network_are_refused(tmp_path, metadata, message):
    path = write_model(tmp_path / "m.onnx", classes=CLASSES, image_shape=(16, 16, 3), metadata=metadata)
    with pytest.raises(ValueError, match=message):
        Package.load(path)


# --- answering


def test_probabilities_do_not_depend_on_the_batches(classifier):
    images = np.random.default_rng(0).integers(0, 256, (37, 16, 16, 3), dtype=np.uint8)
    whole = classifier.probabilities(images)
    assert (whole.shape, whole.dtype) == ((37, 3), np.float32)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(classifier.probabilities(images, batch_size=8), whole, atol=1e-6)
    assert classifier.probabilities(images[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 16, 16, 3)), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)]
)
def test_images_of_another_shape_or_type_are_refused(classifier, images):
    with pytest.raises(ValueError, match=r"expected uint8 images \(n, 16, 16, 3\), got"):
        classifier.probabilities(images)


def test_a_network_that_answers_nan_is_refused(tmp_path):
    path = write_model(tmp_path / "m.onnx", classes=CLASSES, image_shape=(4, 4, 1), weights=np.full((16, 3), np.nan))
    with pytest.raises(ValueError, match="non-finite"):
        Package.load(path).probabilities(np.zeros((1, 4, 4, 1), np.uint8))


def test_every_way_to_give_an_image_gives_the_same_answer(classifier, tmp_path):
    data = STILLS["png"]
    file = tmp_path / "Käse 1\n.png"
    file.write_bytes(data)
    plain = base64.b64encode(data).decode()
    items = [data, bytearray(data), file, str(file), plain, f"data:image/png;base64,{plain}", picture()]
    answers = classifier.predict(items)
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["label"] in CLASSES
    assert answers[0]["probability"] == max(answers[0]["probabilities"].values())
    assert list(answers[0]["probabilities"]) == CLASSES
    assert answers[0]["abstained"] is False
    json.dumps(answers)


def test_files_and_texts_beyond_the_limit_are_not_read(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(Package, "MAX_BYTES", 1000)
    (tmp_path / "large.png").write_bytes(bytes(1001))
    with pytest.raises(ValueError, match=r"large.png: 1,001 bytes are more than an image may have \(1,000\)"):
        classifier.predict([tmp_path / "large.png"])
    with pytest.raises(ValueError, match="1,501 characters are more than an image may have"):
        classifier.predict(["A" * 1501])


def test_a_text_of_many_data_prefixes_is_refused_at_once(classifier):
    start = time.process_time()
    with pytest.raises(ValueError, match="neither an existing file nor base64"):
        classifier.predict(["data:" * 50_000])
    assert time.process_time() - start < 2  # seconds; by a backtracking expression it was half a minute


def test_base64_with_line_breaks_is_read(classifier):
    wrapped = base64.encodebytes(STILLS["png"]).decode()
    assert classifier.predict([wrapped]) == classifier.predict([STILLS["png"]])


def test_a_text_full_of_spaces_takes_little_memory(classifier):
    spaced = "ab " * 1_000_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="decoded from base64: 1500000 bytes are not an image"):
        classifier.predict([spaced])
    assert tracemalloc.get_traced_memory()[1] < 5 * len(spaced)
    tracemalloc.stop()


def test_a_text_that_is_no_file_and_no_image_says_what_came(classifier):
    with pytest.raises(ValueError, match=r"^item 1: 'cat.jpg' is neither an existing file nor base64 of an image$"):
        classifier.predict([STILLS["png"], "cat.jpg"])
    with pytest.raises(
        ValueError, match="'abcd' is not an existing file; decoded from base64: 3 bytes are not an image"
    ):
        classifier.predict(["abcd"])
    with pytest.raises(ValueError, match=r"^item 0: 'A{57}\.\.\.' is not an existing file"):
        classifier.predict(["A" * 100_000])
    with pytest.raises(ValueError, match="neither an existing file nor base64"):
        classifier.predict([""])


def test_a_broken_file_is_named(classifier, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"item 0: .*a\.jpg: 1 byte is not an image; expected JPEG"):
        classifier.predict([tmp_path / "a.jpg"])
    with pytest.raises(ValueError, match=r"item 0: .*none\.jpg: .*No such file"):
        classifier.predict([tmp_path / "none.jpg"])


@pytest.mark.parametrize(
    "item", [None, 3, np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_an_item_of_another_kind_is_refused(classifier, item):
    with pytest.raises(ValueError, match="item 0: expected"):
        classifier.predict([item])


def test_one_image_instead_of_a_list_is_refused(classifier):
    with pytest.raises(ValueError, match="got one str; put it in a list"):
        classifier.predict("cat.jpg")


def test_predict_takes_an_array_of_images_and_any_number_of_them(classifier):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    answers = classifier.predict(images, batch_size=2)
    expected = classifier.probabilities(images)
    np.testing.assert_allclose([list(answer["probabilities"].values()) for answer in answers], expected, atol=1e-6)
    assert classifier.predict([]) == []


def test_below_the_threshold_an_answer_is_marked_as_abstained(tmp_path):
    flat = np.zeros((16, 3))
    shape = (4, 4, 1)
    for threshold, abstained in ((0.5, True), (0.2, False)):
        path = write_model(
            tmp_path / "m.onnx", classes=CLASSES, image_shape=shape, weights=flat, metadata={"abstain_below": threshold}
        )
        assert Package.load(path).predict([np.zeros(shape, np.uint8)])[0]["abstained"] is abstained


def test_an_unfamiliar_image_is_unknown_and_not_answered(tmp_path):
    scale = {"strangeness": [100.0, 200.0], "share": [0.5, 0.001]}
    told = {"unknown_below": 0.01, "familiarity": scale}
    written: dict[str, Any] = {
        "classes": CLASSES,
        "image_shape": (4, 4, 1),
        "weights": np.zeros((16, 3)),
        "metadata": told,
    }
    package_ = Package.load(write_model(tmp_path / "m.onnx", **written, strangeness=np.full(16, 1 / 16)))
    images = np.stack([np.full((4, 4, 1), value, np.uint8) for value in (50, 150, 250)])
    answers = package_.predict(list(images), batch_size=2)
    assert list(answers[0]) == package_.columns
    assert [answer["familiarity"] for answer in answers] == [1.0, 0.5, 0.001]
    assert (
        [answer["unknown"] for answer in answers] == [answer["abstained"] for answer in answers] == [False, False, True]
    )
    np.testing.assert_array_equal(package_.strangeness(images), [50, 150, 250])
    probabilities, familiarity = package_.answers(images[:0])
    assert familiarity is not None
    assert (probabilities.shape, familiarity.shape) == ((0, 3), (0,))
    with pytest.raises(ValueError, match="has unknown_below, but the network does not tell how strange images are"):
        Package.load(write_model(tmp_path / "other.onnx", **written))


def test_the_prediction_set_lists_the_most_probable_first(tmp_path):
    told = {"sets": {"coverage": 0.9, "threshold": 0.55, "penalty": 0.01, "free": 1}}
    weights = np.zeros((16, 3))
    weights[0], weights[1] = np.log([0.5, 0.1, 0.4]) / 255, np.log([0.1, 0.89, 0.01]) / 255
    path = write_model(tmp_path / "m.onnx", classes=CLASSES, image_shape=(4, 4, 1), weights=weights, metadata=told)
    package_ = Package.load(path)
    images = np.zeros((3, 4, 4, 1), np.uint8)
    images[0, 0, 0], images[1, 0, 1] = 255, 255
    answers = package_.predict(list(images), batch_size=2)
    assert list(answers[0]) == package_.columns
    first, second, third = CLASSES
    assert [answer["prediction_set"] for answer in answers] == [[first, third], [second], [first, second]]
    assert all(answer["prediction_set"][0] == answer["label"] for answer in answers)
    members = package_.prediction_sets(package_.probabilities(images))
    np.testing.assert_array_equal(members, [[True, False, True], [False, True, False], [True, True, False]])
    assert package_.predict([]) == []


def test_a_model_that_cannot_tell_says_nothing_of_it(classifier):
    images = np.zeros((1, 16, 16, 3), np.uint8)
    assert classifier.answers(images)[1] is None
    assert not {"unknown", "prediction_set"} & classifier.predict(images)[0].keys()
    assert classifier.prediction_sets(np.full((1, 3), 1 / 3)) is None
    assert classifier.columns == ["label", "probability", "probabilities", "abstained"]
    with pytest.raises(ValueError, match="the model does not tell how strange an image is"):
        classifier.strangeness(images)


def test_latencies_are_positive_milliseconds(classifier):
    latencies = classifier.latencies_ms(np.zeros((16, 16, 3), np.uint8), repeats=5)
    assert latencies.shape == (5,)
    assert (latencies > 0).all()


# --- standing alone


def test_the_modules_import_numpy_opencv_and_onnx_runtime_alone():
    foreign = set()
    for name in ("package.py", *IMPORTED):
        for node in ast.walk(ast.parse(Path(package.__file__).with_name(name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                foreign |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                foreign.add(node.module)
    assert {name.split(".")[0] for name in foreign} - set(sys.stdlib_module_names) == {
        "cv2",
        "numpy",
        "onnxruntime",
        "pillow_heif",  # only for HEIC, where it is installed
    }


def test_the_modules_work_in_a_directory_of_their_own(model, tmp_path):
    (tmp_path / "classifier").mkdir()
    for name in ("package.py", *IMPORTED):
        (tmp_path / "classifier" / name).write_bytes(Path(package.__file__).with_name(name).read_bytes())
    (tmp_path / "a.png").write_bytes(STILLS["png"])
    program = (
        "import sys; from classifier.package import Package; p = Package.load(sys.argv[1]);"
        "print(p.predict(['a.png'])[0]['label']);"
        "assert not {'darkroom', 'tensorflow', 'keras', 'mlflow', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert done.stdout.strip() in CLASSES
    assert done.stderr == ""
