import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from darkroom.errors import ParamsError, TrainingError
from darkroom.evaluation.metrics.temperature import scaled

if TYPE_CHECKING:
    import keras

pytestmark = pytest.mark.heavy

COMPACT = {"filters": [4, 8], "stem_kernel_size": 3, "head": "flatten", "dropout": 0.1}


def test_the_articles_small_network_has_its_parameter_count() -> None:
    from darkroom.networks import build

    network = build.build("single_conv", image_shape=(28, 28, 1), n_classes=10, arguments={})
    assert network.count_params() == 542_230
    assert network.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("compct", {}, "unknown architecture 'compct'; did you mean 'compact'? known: "),
        ("compact", {"filter": [8]}, "architecture compact has no argument 'filter'; known: filters"),
        ("compact", {**COMPACT, "head": "max"}, "head is 'max', expected flatten or average"),
        ("compact", {**COMPACT, "filters": [4] * 6}, "needs images of at least 66x66 pixels"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(name: str, arguments: dict[str, object], message: str) -> None:
    from darkroom.networks import build

    with pytest.raises(ParamsError) as caught:
        build.build(name, image_shape=(16, 16, 1), n_classes=3, arguments=arguments)
    assert message in str(caught.value)


def test_the_seed_decides_the_initial_weights() -> None:
    from darkroom.networks import build

    def weights(seed: int) -> np.ndarray:
        network = build.build("compact", image_shape=(16, 16, 3), n_classes=3, arguments=COMPACT, seed=seed)
        return np.asarray(network.get_weights()[0])

    np.testing.assert_array_equal(weights(1), weights(1))
    assert (weights(1) != weights(2)).any()


def test_hidden_layers_follow_the_policy_and_logits_stay_float32() -> None:
    from darkroom.networks import build

    network = build.build("compact", image_shape=(16, 16, 1), n_classes=3, arguments=COMPACT, policy="mixed_bfloat16")
    assert network.layers[2].compute_dtype == "bfloat16"
    assert network.output.dtype == "float32"


def test_one_sigmoid_is_a_softmax_over_zero_and_its_logit() -> None:
    from darkroom.networks import build, inference

    network = build.build("single_conv", image_shape=(16, 16, 1), n_classes=2, arguments={}, output="sigmoid")
    softmax = build.build("single_conv", image_shape=(16, 16, 1), n_classes=2, arguments={})
    assert softmax.count_params() - network.count_params() == 101, "one unit less, as the tutorials count"
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)
    zero, logit = network.predict(images, verbose=0).T
    probabilities = inference.deployable(network).predict(images, verbose=0)
    np.testing.assert_array_equal(zero, 0)
    np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-logit)), rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(ParamsError, match="output sigmoid needs exactly 2 classes, got 3"):
        build.build("single_conv", image_shape=(16, 16, 1), n_classes=3, arguments={}, output="sigmoid")


def extractor() -> "keras.Model":
    """A stand-in for a backbone: a convolution with BatchNorm in inference mode, 4 features."""
    import keras

    keras.utils.set_random_seed(1)
    inside = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inside))
    inside = keras.Model(inside, keras.layers.GlobalAveragePooling2D()(x))
    pictures = keras.Input((8, 8, 3), dtype="uint8", name="image")
    return keras.Model(pictures, inside(keras.layers.Rescaling(1 / 255)(pictures), training=False))


@pytest.mark.parametrize("views", ["one", "flip", "flip_and_shift"])
def test_the_deployed_graph_averages_the_logits_of_its_views(views: str, tmp_path: Path) -> None:
    import keras
    import onnx

    from darkroom.networks import build, export, inference

    head = build.build_head(4, n_classes=3, units=5, dropout=0.2, of_roots=True, seed=2)
    network = build.with_head(extractor(), head)
    model = inference.deployable(network, views)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (21, 8, 8, 3), dtype=np.uint8)
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    shifted = [images, padded[:, :8, :8], padded[:, 2:, 2:]]
    both = [(network.predict(seen, verbose=0) + network.predict(seen[:, :, ::-1], verbose=0)) / 2 for seen in shifted]
    logits = {
        "one": network.predict(images, verbose=0),
        "flip": both[0],
        "flip_and_shift": (both[0] + (both[1] + both[2]) / 2) / 2,
    }[views]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-6)
    assert inference.accuracy(model, images, expected.argmax(axis=1), batch_size=8) == 1.0

    softened, expected = inference.at_temperature(model, 2.5), scaled(expected, 2.5)
    np.testing.assert_allclose(softened.predict(images, verbose=0), expected, atol=1e-6)

    metadata = {"dataset": "toy", "classes": ["a", "b", "c"], "image_shape": [8, 8, 3], "color": "rgb"}
    assert export.export(softened, tmp_path / "out", metadata=metadata, images=images) < 1e-5
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    assert {prop.key: json.loads(prop.value) for prop in graph.metadata_props} == {"darkroom": metadata}
    assert [value.name for value in graph.graph.input] == ["image"]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    loaded = keras.saving.load_model(tmp_path / "out" / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-6)


def test_an_onnx_file_that_says_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.networks import build, export, inference

    model = inference.deployable(build.build("compact", image_shape=(16, 16, 1), n_classes=3, arguments=COMPACT))
    monkeypatch.setattr(export, "PARITY_TOLERANCE", -1.0)
    metadata = {"dataset": "toy", "classes": ["a", "b", "c"], "image_shape": [16, 16, 1], "color": "grey"}
    with pytest.raises(TrainingError, match="differ from the Keras model's by up to .* must not be deployed"):
        export.export(model, tmp_path, metadata=metadata, images=np.zeros((2, 16, 16, 1), np.uint8))


def test_only_a_whitening_layer_is_filled_from_pictures() -> None:
    from darkroom.networks import build

    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    filled = []
    for seed in (1, 1, 2):
        network = build.build("fast", image_shape=(16, 16, 3), n_classes=3, arguments={"filters": [4, 8]})
        before = network.get_weights()
        build.initialise_from_data(network, images, seed=seed, n_images=30)
        filled.append(network.get_layer("whitening").get_weights())
        kernels = [layer.name for layer in network.layers for _ in layer.get_weights()]
        for name, old, new in zip(kernels, before, network.get_weights(), strict=True):
            assert np.array_equal(old, new) == (name != "whitening"), name
    np.testing.assert_array_equal(filled[0][0], filled[1][0])
    assert (filled[0][0] != filled[2][0]).any()
