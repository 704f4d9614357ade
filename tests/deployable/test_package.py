import ast
import base64
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image

from darkroom.data.preparation import decoding
from darkroom.deployable import package
from darkroom.deployable.package import Package
from tests.support.onnx_model import write_model

CLASSES = ["cat", "dog", "猫 <b>"]


def picture(height=48, width=64):
    rng = np.random.default_rng(3)
    return cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(kind, image=None, **options):
    image = Image.fromarray(picture()) if image is None else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees to see it upright
    return exif


def stills():
    image = Image.fromarray(picture())
    return {
        "jpeg": encoded("JPEG"),
        "progressive jpeg": encoded("JPEG", progressive=True),
        "exif-rotated jpeg": encoded("JPEG", exif=rotated()),
        "exif-rotated png": encoded("PNG", exif=rotated()),
        "exif-rotated webp": encoded("WEBP", exif=rotated()),
        "cmyk jpeg": encoded("JPEG", image.convert("CMYK")),
        "grey jpeg": encoded("JPEG", image.convert("L")),
        "png": encoded("PNG"),
        "16-bit png": cv2.imencode(".png", picture().astype(np.uint16) * 257)[1].tobytes(),
        "16-bit grey png": cv2.imencode(".png", picture()[:, :, 0].astype(np.uint16) * 257)[1].tobytes(),
        "palette png": encoded("PNG", image.convert("P")),
        "1-bit png": encoded("PNG", image.convert("1")),
        "grey+alpha png": encoded("PNG", image.convert("LA")),
        "rgba png": encoded("PNG", image.convert("RGBA")),
        "lossy webp": encoded("WEBP"),
        "lossless webp": encoded("WEBP", lossless=True),
        "rgba webp": encoded("WEBP", image.convert("RGBA")),
        "bmp": encoded("BMP"),
        "gif": encoded("GIF"),
        "tiff": encoded("TIFF"),
    }


STILLS = stills()
SIZES = [(28, 28), (48, 64), (64, 48), (96, 96), (24, 80), (24, 64), (49, 32)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", classes=CLASSES, image_shape=(16, 16, 3))


@pytest.fixture(scope="module")
def classifier(model):
    return Package.load(model, threads=1)


# --- decoding


@pytest.mark.parametrize("name", STILLS)
@pytest.mark.parametrize("color", ["grey", "rgb"])
def test_serving_decodes_to_the_same_bytes_as_training(name, color):
    trained = decoding.decode(STILLS[name], color=color, max_pixels=10**6)
    served = package.decode(STILLS[name], color=color, max_pixels=10**6)
    np.testing.assert_array_equal(served, trained)
    for size in SIZES:
        np.testing.assert_array_equal(package.resize(served, size=size), decoding.resize(trained, size=size))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
@pytest.mark.parametrize("color", ["grey", "rgb"])
def test_serving_converts_arrays_to_the_same_bytes_as_training(shape, color):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    converted = decoding.convert(pixels, color=color)
    np.testing.assert_array_equal(package._convert(pixels, color=color), converted)


@pytest.mark.parametrize("name", STILLS)
def test_the_header_gives_the_size_without_decoding(name):
    width, height, animated = package.read_header(STILLS[name])
    assert ({width, height}, animated) == ({64, 48}, False)


@pytest.mark.parametrize("name", ["exif-rotated jpeg", "exif-rotated png", "exif-rotated webp"])
def test_exif_orientation_is_applied(name):
    assert package.decode(STILLS[name], color="rgb", max_pixels=10**6).shape == (64, 48, 3)


def test_colours_come_as_rgb_and_grey_keeps_its_channel_axis():
    red = encoded("PNG", Image.new("RGB", (4, 4), (255, 0, 0)))
    assert package.decode(red, color="rgb", max_pixels=16)[0, 0].tolist() == [255, 0, 0]
    assert package.decode(red, color="grey", max_pixels=16).shape == (4, 4, 1)
    assert package.resize(package.decode(red, color="grey", max_pixels=16), size=(2, 2)).shape == (2, 2, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_more_than_one_frame_is_refused(kind):
    image = Image.fromarray(picture())
    data = encoded(kind, image, save_all=True, append_images=[image.rotate(90)])
    with pytest.raises(ValueError, match="more than one frame"):
        package.decode(data, color="rgb", max_pixels=10**6)


@pytest.mark.parametrize("name", [name for name in STILLS if name != "tiff"])
def test_a_truncated_file_is_refused(name, capfd):
    for kept in (0.9, 0.5):
        data = STILLS[name][: int(len(STILLS[name]) * kept)]
        with pytest.raises(ValueError, match="not an image"):
            package.decode(data, color="rgb", max_pixels=10**6)
    assert "WARN" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "data", [b"", b"x", b"hello, this is text", b"\xff\xd8\xff", b"BM", b"RIFF0000WEBP", b"GIF89a"]
)
def test_what_is_no_image_is_refused_by_its_length(data):
    with pytest.raises(
        ValueError, match=rf"^{len(data)} bytes? (is|are) not an image; expected JPEG, PNG, WebP, BMP, GIF"
    ):
        package.decode(data, color="rgb", max_pixels=10**6)


def test_any_cut_of_any_format_is_an_image_or_a_value_error():
    for data in STILLS.values():
        for length in range(0, min(len(data), 200), 3):
            try:
                package.decode(data[:length], color="grey", max_pixels=10**6)
            except ValueError:
                continue


def test_a_jpeg_cannot_hide_its_size():
    data = STILLS["jpeg"]
    for hidden in (b"garbage", b"\xff\xd0", b"\xff\x01", b"\xff\xd0\x00\x02", b"\xff\xff\xff"):
        assert package.read_header(data[:20] + hidden + data[20:])[:2] == (64, 48)


def bomb():
    """Return a PNG of some 60 bytes that says it has 30,000 x 30,000 pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_pixel_bomb_is_refused_before_it_is_decoded(classifier):
    with pytest.raises(ValueError, match="30000x30000 pixels; the limit is 50000000"):
        classifier.decode(bomb())


def long8_tiff(width, height):
    """Return a grey TIFF that keeps its size as 64-bit numbers elsewhere: in the tags stand offsets, 122 and 130."""
    tags = [(256, 16, 122), (257, 16, 130), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 138), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, width * height)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, 9) + entries + struct.pack("<IQQ", 0, width, height) + bytes(width * height)


@pytest.mark.parametrize("change", ["64-bit", "two numbers", "none"])
def test_a_tiff_cannot_hide_its_size_behind_another_type(change):
    data = bytearray(long8_tiff(12, 10))
    if change != "64-bit":  # plain LONG tags with the size itself
        for at, side in ((10, 12), (22, 10)):
            struct.pack_into("<HII", data, at + 2, 4, 2 if change == "two numbers" else 1, side)
    if change == "none":
        assert package.read_header(bytes(data)) == (12, 10, False)
    else:
        with pytest.raises(IndexError, match="size of another type"):
            package.read_header(bytes(data))
    decoded: Any = cv2.imdecode(np.frombuffer(long8_tiff(12, 10), np.uint8), 0)
    assert decoded.shape == (10, 12)  # OpenCV follows the offsets


def test_the_pixel_limit_is_an_argument(model):
    small = Package.load(model, max_pixels=48 * 64 - 1)
    with pytest.raises(ValueError, match="64x48 pixels; the limit is 3071 pixels"):
        small.decode(STILLS["png"])
    assert Package.load(model, max_pixels=48 * 64).decode(STILLS["png"]).shape == (16, 16, 3)


def broken():
    """Return files that are cut, animated, bombs, or no images, by name."""
    image = Image.fromarray(picture())
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    found = {f"animated {kind}": encoded(kind, image, **frames) for kind in ("GIF", "WEBP", "PNG", "TIFF")}
    for name, data in STILLS.items():
        found |= {f"{name} cut to {length}": data[:length] for length in (0, 8, 30, 60, len(data) // 2, len(data) - 12)}
    return found | {"bomb": bomb(), "64-bit tiff": long8_tiff(12, 10), "text": b"hello"}


def test_serving_refuses_and_accepts_the_same_files_as_training():
    def outcome(function, data):
        try:
            return function(data, color="grey", max_pixels=10**6).tobytes()
        except (ValueError, decoding.Rejected):
            return None

    for name, data in broken().items():
        assert outcome(package.decode, data) == outcome(decoding.decode, data), name


def test_pixels_may_be_a_view(classifier):
    view = picture()[::-1, ::2]
    assert classifier.predict([view]) == classifier.predict([view.copy()])
    np.testing.assert_array_equal(package._convert(view, color="grey"), package._convert(view.copy(), color="grey"))


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


def test_base64_with_line_breaks_is_read(classifier):
    wrapped = base64.encodebytes(STILLS["png"]).decode()
    assert classifier.predict([wrapped]) == classifier.predict([STILLS["png"]])


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


def test_latencies_are_positive_milliseconds(classifier):
    latencies = classifier.latencies_ms(np.zeros((16, 16, 3), np.uint8), repeats=5)
    assert latencies.shape == (5,)
    assert (latencies > 0).all()


# --- standing alone


def test_the_module_imports_numpy_opencv_and_onnx_runtime_alone():
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"cv2", "numpy", "onnxruntime"}


def test_the_module_works_as_a_lone_file(model, tmp_path):
    (tmp_path / "package.py").write_bytes(Path(package.__file__).read_bytes())
    (tmp_path / "a.png").write_bytes(STILLS["png"])
    program = (
        "import sys, package; p = package.Package.load(sys.argv[1]); print(p.predict(['a.png'])[0]['label']);"
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
