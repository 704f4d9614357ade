import json
from pathlib import Path

import numpy as np
import pytest

from darkroom.errors import ParamsError

pytestmark = pytest.mark.heavy

COMPACT = {"filters": [4, 8], "stem_kernel_size": 3, "head": "flatten", "dropout": 0.1}


def test_the_small_network_of_the_articles_has_their_parameter_count() -> None:
    from darkroom import models

    network = models.build("single_conv", image_shape=(28, 28, 1), n_classes=10, arguments={})
    assert network.count_params() == 542_230
    assert network.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("compct", {}, "there is no architecture 'compct'; did you mean 'compact'? known: compact"),
        ("compact", {"filter": [8]}, "architecture compact has no argument 'filter'; known: filters"),
        ("compact", {**COMPACT, "head": "max"}, "head is 'max', expected flatten or average"),
        ("compact", {**COMPACT, "filters": [4] * 6}, "does not fit pictures of"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(name: str, arguments: dict[str, object], message: str) -> None:
    from darkroom import models

    with pytest.raises(ParamsError) as caught:
        models.build(name, image_shape=(16, 16, 1), n_classes=3, arguments=arguments)
    assert message in str(caught.value)


def test_the_seed_decides_the_initial_weights() -> None:
    from darkroom import models

    def weights(seed: int) -> np.ndarray:
        network = models.build("compact", image_shape=(16, 16, 3), n_classes=3, arguments=COMPACT, seed=seed)
        return np.asarray(network.get_weights()[0])

    np.testing.assert_array_equal(weights(1), weights(1))
    assert (weights(1) != weights(2)).any()


def test_hidden_layers_follow_the_policy_and_logits_stay_float32() -> None:
    from darkroom import models

    network = models.build("compact", image_shape=(16, 16, 1), n_classes=3, arguments=COMPACT, policy="mixed_bfloat16")
    assert network.layers[2].compute_dtype == "bfloat16"
    assert network.output.dtype == "float32"


def test_draws_shift_mirror_and_cut_as_told() -> None:
    from darkroom import models

    rng = np.random.default_rng(3)
    pictures = rng.integers(1, 256, (5, 6, 7, 2), dtype=np.uint8)
    draws = np.array([[0, 0, 0, 0, 0], [2, -1, 0, 1, 1], [0, 0, 1, 3, 4], [-2, 2, 1, 2, 0], [1, 1, 0, 0, 4]], np.int32)
    expected = []
    for picture, (down, right, mirrored, top, left) in zip(pictures, draws, strict=True):
        source = picture[:, ::-1] if mirrored else picture
        moved = np.zeros_like(source)
        for row in range(6):
            for column in range(7):
                if 0 <= row - down < 6 and 0 <= column - right < 7:
                    moved[row, column] = source[row - down, column - right]
        moved[top : top + 3, left : left + 3] = 0
        expected.append(moved)
    drawn = models.Draws(shift=2, flip=True, cutout=3)(pictures, draws)
    np.testing.assert_array_equal(np.asarray(drawn), np.stack(expected))


def test_the_saved_onnx_file_agrees_with_keras_and_knows_its_classes(tmp_path: Path) -> None:
    import onnx

    from darkroom import models

    network = models.build("compact", image_shape=(16, 16, 1), n_classes=3, arguments=COMPACT)
    model = models.deployable(network)
    metadata = {"dataset": "toy", "classes": ["a", "b", "c"], "image_shape": [16, 16, 1], "color": "grey"}
    models.save(model, keras_path=tmp_path / "model.keras", onnx_path=tmp_path / "model.onnx", metadata=metadata)
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 1), dtype=np.uint8)
    assert models.onnx_difference(model, tmp_path / "model.onnx", images) < 1e-5
    graph = onnx.load(tmp_path / "model.onnx")
    assert {prop.key: json.loads(prop.value) for prop in graph.metadata_props} == {"darkroom": metadata}
    assert [value.name for value in graph.graph.input] == ["image"]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_the_saved_keras_file_loads_in_safe_mode_and_eats_uint8(tmp_path: Path) -> None:
    import keras

    from darkroom import models

    model = models.deployable(models.build("compact", image_shape=(16, 16, 1), n_classes=3, arguments=COMPACT))
    models.save(model, keras_path=tmp_path / "model.keras", onnx_path=tmp_path / "model.onnx", metadata={"classes": []})
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    images = np.zeros((2, 16, 16, 1), np.uint8)
    np.testing.assert_allclose(loaded.predict(images, verbose=0).sum(axis=1), 1, atol=1e-6)
