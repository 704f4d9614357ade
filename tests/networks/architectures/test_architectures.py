import inspect
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.errors import ParamsError

pytestmark = pytest.mark.heavy

ALEXNET = {"filters": [96, 256, 384, 384, 256], "units": [4096, 4096]}
LENET5 = {"filters": [6, 16], "units": [120, 84]}
VGG = {"units": [4096, 4096]}
# Every architecture at a size that costs nothing.
SMALL: dict[str, dict[str, Any]] = {
    "compact": {"filters": [4, 8], "stem_kernel_size": 3},
    "fast": {"filters": [4, 8]},
    "single_conv": {"filters": 4, "units": 8},
    "two_conv": {"filters": [4, 8], "units": 8},
    "six_conv": {"filters": [4, 8, 8], "units": 8},
    "lenet5": {"filters": [2, 4], "units": [8, 8]},
    "alexnet": {"filters": [4, 8, 8, 8, 8], "units": [8, 8], "stem_kernel_size": 3, "stem_strides": 1},
    "vgg": {"depth": 11, "units": [], "width": 0.1, "batch_norm": True},
    "resnet": {"depth": 18, "filters": 4, "stem": "small"},
    "resnet_cifar": {"depth": 8, "filters": 4},
    "inception": {"stem": "small", "width": 0.1, "batch_norm": True},
}
UNPADDED = ("compact", "fast", "single_conv", "two_conv", "six_conv", "lenet5", "alexnet", "vgg")


def outline(
    name: str, image_shape: tuple[int, int, int], *, n_classes: int, policy: str = "float32", **given: Any
) -> Any:
    """The network without values in its weights: VGG's alone would fill half a gigabyte."""
    import keras

    from darkroom.networks import build

    with keras.StatelessScope(initialize_variables=False):
        network = build.build(name, image_shape=image_shape, n_classes=n_classes, arguments=given, policy=policy)
    keras.utils.clear_session()  # else the next scope of this process fills them
    return network


def trainable_parameters(network: Any) -> int:
    return sum(prod(variable.shape) for variable in network.trainable_weights)


@pytest.mark.parametrize(
    ("name", "arguments", "image_shape", "n_classes", "parameters"),
    [
        ("single_conv", {}, (28, 28, 1), 10, 542_230),
        ("two_conv", {"filters": [32, 64]}, (28, 28, 1), 10, 1_199_882),
        ("six_conv", {"filters": [32, 64, 64]}, (32, 32, 3), 10, 276_138),
        ("lenet5", LENET5, (32, 32, 1), 10, 61_706),
        ("lenet5", {**LENET5, "stem_padding": "same"}, (28, 28, 1), 10, 61_706),
        ("alexnet", ALEXNET, (227, 227, 3), 1000, 62_378_344),
        ("vgg", {**VGG, "depth": 11}, (224, 224, 3), 1000, 132_863_336),
        ("vgg", {**VGG, "depth": 13}, (224, 224, 3), 1000, 133_047_848),
        ("vgg", {**VGG, "depth": 16}, (224, 224, 3), 1000, 138_357_544),
        ("vgg", {**VGG, "depth": 19}, (224, 224, 3), 1000, 143_667_240),
        ("resnet", {"depth": 18}, (224, 224, 3), 1000, 11_689_512),
        ("resnet", {"depth": 34}, (224, 224, 3), 1000, 21_797_672),
        ("resnet", {"depth": 50}, (224, 224, 3), 1000, 25_557_032),
        ("resnet", {"depth": 18, "stem": "small"}, (32, 32, 3), 10, 11_173_962),
        ("resnet_cifar", {"depth": 20}, (32, 32, 3), 10, 269_722),
        ("resnet_cifar", {"depth": 32}, (32, 32, 3), 10, 464_154),
        ("resnet_cifar", {"depth": 56}, (32, 32, 3), 10, 853_018),
        ("inception", {}, (224, 224, 3), 1000, 6_998_552),
        ("fast", {"filters": [64, 256, 256]}, (32, 32, 3), 10, 1_971_338),
    ],
)
def test_parameter_counts_are_those_of_the_papers(
    name: str, arguments: dict[str, Any], image_shape: tuple[int, int, int], n_classes: int, parameters: int
) -> None:
    assert trainable_parameters(outline(name, image_shape, n_classes=n_classes, **arguments)) == parameters


def test_cats_and_dogs_of_the_articles_share_one_sigmoid() -> None:
    from darkroom.networks import build

    arguments = {"units": 128, "initializer": "glorot_uniform"}
    network = build.build("single_conv", image_shape=(64, 64, 3), n_classes=2, arguments=arguments, output="sigmoid")
    assert network.count_params() == 3_937_409


@pytest.mark.parametrize(
    ("name", "arguments", "image_shape", "stages"),
    [
        ("single_conv", {}, (28, 28, 1), [(26, 26, 32), (13, 13, 32), (5408,), (100,)]),
        ("two_conv", {"filters": [32, 64]}, (28, 28, 1), [(26, 26, 32), (24, 24, 64), (12, 12, 64), (9216,), (128,)]),
        (
            "fast",
            {"filters": [64, 256, 256]},
            (32, 32, 3),
            [(31, 31, 24), (15, 15, 64), (7, 7, 256), (3, 3, 256), (256,)],
        ),
        (
            "six_conv",
            {"filters": [32, 64, 64]},
            (32, 32, 3),
            [
                *[(32, 32, 32), (30, 30, 32), (15, 15, 32), (15, 15, 64), (13, 13, 64), (6, 6, 64)],
                *[(6, 6, 64), (4, 4, 64), (2, 2, 64), (256,), (512,)],
            ],
        ),
        ("lenet5", LENET5, (32, 32, 1), [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (120,), (84,)]),
        (
            "alexnet",
            ALEXNET,
            (227, 227, 3),
            [
                *[(55, 55, 96), (27, 27, 96), (27, 27, 256), (13, 13, 256), (13, 13, 384), (13, 13, 384)],
                *[(13, 13, 256), (6, 6, 256), (9216,), (4096,), (4096,)],
            ],
        ),
        (
            "vgg",
            {**VGG, "depth": 16},
            (224, 224, 3),
            [
                *[(224, 224, 64), (112, 112, 128), (56, 56, 256), (28, 28, 512), (14, 14, 512), (7, 7, 512)],
                *[(25088,), (4096,), (4096,)],
            ],
        ),
        (
            "resnet",
            {"depth": 34},
            (224, 224, 3),
            [(112, 112, 64), (56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512), (512,)],
        ),
        (
            "resnet",
            {"depth": 50},
            (224, 224, 3),
            [(112, 112, 64), (56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048), (2048,)],
        ),
        ("resnet_cifar", {"depth": 20}, (32, 32, 3), [(32, 32, 16), (16, 16, 32), (8, 8, 64), (64,)]),
        (
            "inception",
            {},
            (224, 224, 3),
            [
                *[(112, 112, 64), (56, 56, 64), (56, 56, 192), (28, 28, 192), (28, 28, 256), (28, 28, 480)],
                *[(14, 14, 480), (14, 14, 512), (14, 14, 528), (14, 14, 832), (7, 7, 832), (7, 7, 1024), (1024,)],
            ],
        ),
        ("inception", {"stem": "small"}, (32, 32, 3), [(32, 32, 192), (32, 32, 480), (16, 16, 832), (8, 8, 1024)]),
    ],
)
def test_stages_have_the_documented_shapes_in_this_order(
    name: str, arguments: dict[str, Any], image_shape: tuple[int, int, int], stages: list[tuple[int, ...]]
) -> None:
    shapes = iter(layer.output.shape[1:] for layer in outline(name, image_shape, n_classes=10, **arguments).layers)
    for stage in stages:
        assert stage in shapes  # takes from the iterator up to the first equal one


def test_every_architecture_is_tried_at_a_small_size() -> None:
    from darkroom.networks.architectures.table import ARCHITECTURES

    assert set(SMALL) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", SMALL)
def test_the_least_picture_works_and_one_pixel_less_is_refused(name: str) -> None:
    import keras

    from darkroom.networks import build
    from darkroom.networks.architectures.sizes import minimum_size
    from darkroom.networks.architectures.table import ARCHITECTURES, full_arguments

    least = minimum_size(name, full_arguments(name, SMALL[name]))
    network = build.build(name, image_shape=(least, least + 3, 3), n_classes=3, arguments=SMALL[name])
    logits = np.asarray(network(np.full((2, least, least + 3, 3), 200, np.uint8), training=False))
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()
    with pytest.raises(ParamsError, match=f"at least {least}x{least} pixels, got {least - 1}x{least}"):
        build.build(name, image_shape=(least - 1, least, 3), n_classes=3, arguments=SMALL[name])
    if name in UNPADDED:  # then Keras itself must not be able to: the least size is not chosen too high
        with pytest.raises(ValueError, match="negative|smaller|size"):
            inspect.unwrap(ARCHITECTURES[name])(keras.Input((least - 1, least, 3)), **SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_works_in_mixed_precision(name: str) -> None:
    network = outline(name, (32, 32, 3), n_classes=3, policy="mixed_bfloat16", **SMALL[name])
    assert "bfloat16" in {layer.compute_dtype for layer in network.layers}
    assert {variable.dtype for variable in network.weights if "seed" not in variable.path} == {"float32"}
    assert network.output.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg", {"depth": 12, "units": []}, "architecture vgg: depth is 12, expected 11, 13, 16 or 19"),
        ("vgg", {"depth": 16}, "architecture vgg lacks the argument 'units'"),
        ("vgg", {"depth": 16, "units": [], "height": 1}, "architecture vgg has no argument 'height'; known: depth, un"),
        (
            "resnet_cifar",
            {"depth": 21},
            "architecture resnet_cifar: depth is 21, expected 6n + 2, such as 20, 32 or 56",
        ),
        ("resnet", {"depth": 18, "stem": "big"}, "architecture resnet: stem is 'big', expected imagenet or small"),
        ("resnet50", {}, "unknown architecture 'resnet50'; did you mean 'resnet'"),
    ],
)
def test_wrong_arguments_are_told_what_is_known(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        outline(name, (32, 32, 3), n_classes=3, **arguments)
    assert message in str(caught.value)


def test_the_identity_shortcut_halves_and_pads_with_zeros() -> None:
    from darkroom.networks.architectures.resnet import identity_shortcut

    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype("float32")
    shortcut = np.asarray(identity_shortcut(x, 5, strides=2))
    np.testing.assert_array_equal(shortcut[..., :3], x[:, ::2, ::2])
    np.testing.assert_array_equal(shortcut[..., 3:], np.zeros((2, 3, 4, 2)))


@pytest.mark.parametrize("size", [6, 7])
def test_a_strided_convolution_is_centred_as_its_shortcut(size: int) -> None:
    import keras

    from darkroom.networks.architectures.convolution import convolution

    pictures = keras.Input((size, size, 1))
    network = keras.Model(pictures, convolution(pictures, 1, 3, strides=2, batch_norm=False))
    centre = np.zeros((3, 3, 1, 1), "float32")
    centre[1, 1] = 1
    network.set_weights([centre, np.zeros(1)])
    x = np.random.default_rng(0).random((2, size, size, 1), dtype="float32")
    np.testing.assert_allclose(network(x), x[:, ::2, ::2], atol=1e-6)


def test_filters_of_fast_start_with_copies_of_the_channels() -> None:
    import keras

    from darkroom.networks import build

    network = build.build("fast", image_shape=(16, 16, 3), n_classes=3, arguments={"filters": [8, 16]})
    _, second, third, _ = [layer for layer in network.layers if layer.name.startswith("conv2d")]
    x = np.random.default_rng(0).random((2, 6, 6, 8), dtype="float32")
    np.testing.assert_allclose(second(x), x, atol=1e-6)
    np.testing.assert_allclose(third(x)[..., :8], x, atol=1e-6)
    assert 0.7 < np.square(third.kernel)[..., 8:].sum(axis=(0, 1, 2)).mean() < 1.3
    network.compile(keras.optimizers.SGD(10.0), keras.losses.CategoricalCrossentropy(from_logits=True))
    whitening = network.get_layer("whitening").get_weights()
    network.train_on_batch(
        np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), "uint8"), np.eye(3)[np.arange(8) % 3]
    )
    np.testing.assert_allclose(np.square(second.kernel).sum(axis=(0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(network.get_layer("whitening").get_weights()[0], whitening[0])


def test_whitened_patches_are_uncorrelated_with_variance_one() -> None:
    from darkroom.networks.architectures.fast import whitening

    rng = np.random.default_rng(0)
    coarse = rng.random((200, 4, 4, 3), dtype="float32")
    pictures = 0.8 * coarse.repeat(3, axis=1).repeat(3, axis=2) + 0.2 * rng.random((200, 12, 12, 3), dtype="float32")
    kernel, bias = whitening(pictures, kernel_size=2, epsilon=0.0)
    patches = np.lib.stride_tricks.sliding_window_view(pictures, (2, 2), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    features = patches.reshape(-1, 12) @ kernel.reshape(12, 24) + bias
    np.testing.assert_allclose(features[:, :12], -features[:, 12:], atol=1e-3)
    np.testing.assert_allclose(np.cov(features[:, :12].T), np.eye(12), atol=2e-3)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-3)


def test_the_quick_batch_norm_is_keras_with_biased_variance() -> None:
    import keras
    import tensorflow as tf

    from darkroom.networks.architectures.fast import FusedBatchNormalization

    x = np.random.default_rng(0).normal(3, 2, size=(8, 5, 5, 6)).astype("float32")
    ours, theirs = FusedBatchNormalization(momentum=0.6), keras.layers.BatchNormalization(momentum=0.6)
    sums = []
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights([np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6), *layer.get_weights()[2:]])
        with tf.GradientTape() as tape:
            pictures = tf.Variable(x)
            outputs = layer(pictures, training=True)
            loss = tf.reduce_sum(outputs**3)
        sums.append([outputs, *tape.gradient(loss, [pictures, *(v.value for v in layer.trainable_variables)])])
    for mine, other in zip(*sums, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    n = 8 * 5 * 5
    unbiased = 0.6 + (np.asarray(theirs.moving_variance) - 0.6) * n / (n - 1)
    np.testing.assert_allclose(ours.moving_variance, unbiased, rtol=1e-5)
    np.testing.assert_allclose(ours(x, training=False), theirs(x, training=False), rtol=1e-2, atol=1e-2)


def test_residual_blocks_start_as_the_identity() -> None:
    import keras

    from darkroom.networks import build

    network = build.build("resnet", image_shape=(32, 32, 3), n_classes=3, arguments=SMALL["resnet"])
    ends = [layer for layer in network.layers if isinstance(layer, keras.layers.Add)]
    assert len(ends) == 8
    branches = keras.Model(network.input, [end.input[1] for end in ends])
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert all(np.abs(branch).max() == 0 for branch in branches.predict(pictures, verbose=0))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("alexnet", SMALL["alexnet"]),
        ("fast", SMALL["fast"]),
        ("inception", {**SMALL["inception"], "batch_norm": False}),
        ("resnet_cifar", SMALL["resnet_cifar"]),
    ],
)
def test_a_trained_network_is_the_same_from_its_files(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    import keras

    from darkroom.networks import build, export, inference

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (16, 20, 20, 3), dtype=np.uint8)
    labels = np.eye(3, dtype="float32")[rng.integers(0, 3, 16)]
    network = build.build(name, image_shape=(20, 20, 3), n_classes=3, arguments=arguments)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, run_eagerly=True)  # tracing costs more than 3 steps
    losses = [network.train_on_batch(pictures, labels) for _ in range(3)]
    assert np.isfinite(losses).all()

    model = inference.deployable(network)
    metadata = {"classes": ["a", "b", "c"], "image_shape": [20, 20, 3], "color": "rgb"}
    export.save(model, keras_path=tmp_path / "model.keras", onnx_path=tmp_path / "model.onnx", metadata=metadata)
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(pictures), model(pictures), atol=1e-6)
    assert export.onnx_difference(model, tmp_path / "model.onnx", pictures) < 1e-5
