"""ONNX Runtime and Keras give the same features, in order and in bounded memory; the extractor here is tiny."""

import threading
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.heavy

SHAPE = (20, 16, 1)
PICTURES = np.random.default_rng(0).integers(0, 256, (101, *SHAPE), dtype=np.uint8)


def build(**mode: bool) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    pictures = keras.Input(SHAPE, dtype="uint8")
    x = layers.Concatenate()([layers.Resizing(24, 24)(layers.Rescaling(1 / 255)(pictures))] * 3)
    inside = keras.Sequential([layers.Conv2D(8, 3, strides=2, activation="relu"), layers.BatchNormalization()])
    x = layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(3)(inside(x, **mode)))
    return keras.Model(pictures, x, name="tiny_features")


@pytest.fixture(scope="module")
def extractor() -> Any:
    return build(training=False)


@pytest.fixture(scope="module")
def expected(extractor: Any) -> np.ndarray:
    return np.asarray(extractor.predict(PICTURES, verbose=0))


@pytest.mark.parametrize("runtime", ["onnx", "keras"])
def test_the_features_are_those_of_keras_in_picture_order(extractor: Any, expected: np.ndarray, runtime: Any) -> None:
    from darkroom.networks.backbones.embedding import Embedder

    embedder = Embedder(extractor, runtime=runtime, batch_size=16)
    assert (embedder.n_features, embedder.runtime) == (8, runtime)
    done: list[int] = []
    for _ in range(2):  # both splits go through one embedder
        blocks = list(embedder(PICTURES, on_batch=done.append))
        assert [len(block) for block in blocks] == [16] * 6 + [5]
        found = np.concatenate(blocks)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert sum(done) == 202


@pytest.mark.parametrize(
    ("runtime", "edge", "pictures"), [("onnx", 28, 32), ("onnx", 160, 8), ("onnx", 299, 4), ("keras", 299, 256)]
)
def test_larger_pictures_go_through_a_cpu_in_smaller_batches(runtime: Any, edge: int, pictures: int) -> None:
    from darkroom.networks.backbones.embedding import batch_size_of

    assert batch_size_of(runtime, (edge, edge)) == pictures


def test_onnx_runtime_computes_where_there_is_no_gpu(extractor: Any) -> None:
    from darkroom.networks.backbones.embedding import Embedder
    from darkroom.networks.runtime import device

    assert Embedder(extractor).runtime == ("keras" if device.gpus() else "onnx")


def test_a_graph_that_says_something_else_is_refused() -> None:
    from darkroom.errors import TrainingError
    from darkroom.networks.backbones.embedding import Embedder

    with pytest.raises(
        TrainingError, match="its ONNX graph differ from those of the Keras model by .* with training=False"
    ):
        Embedder(build(), runtime="onnx")  # its BatchNorm is exported in training mode, because of Resizing


@pytest.mark.parametrize("runtime", ["onnx", "keras"])
def test_features_that_are_not_finite_stop_it(runtime: Any) -> None:
    from darkroom.errors import TrainingError
    from darkroom.networks.backbones.embedding import Embedder

    broken = build(training=False)
    broken.set_weights([np.full(weight.shape, np.nan) for weight in broken.get_weights()])
    with pytest.raises(TrainingError, match="the features of images 0 to 31 are not all finite; the weights do not"):
        list(Embedder(broken, runtime=runtime, batch_size=32)(PICTURES))


class Watched:
    """Pictures that count how many batches were read, by which threads."""

    def __init__(self) -> None:
        self.reads, self.threads = 0, set[str]()

    def __len__(self) -> int:
        return len(PICTURES)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.reads += 1
        self.threads.add(threading.current_thread().name)
        if rows[0] == 90:
            raise OSError(5, "Input/output error")
        return np.asarray(PICTURES[rows])


def test_reading_is_ahead_by_a_bounded_number_of_batches() -> None:
    from darkroom.networks.backbones.embedding import READ_AHEAD, read_ahead

    watched = Watched()
    for taken, batch in enumerate(read_ahead(watched, batch_size=9)):
        assert watched.reads <= taken + 1 + READ_AHEAD
        np.testing.assert_array_equal(batch, PICTURES[9 * taken : 9 * taken + 9])
        if taken == 5:
            break
    assert watched.threads == {"read-ahead_0"}


def test_what_goes_wrong_while_reading_is_raised() -> None:
    from darkroom.networks.backbones.embedding import read_ahead

    with pytest.raises(OSError, match="Input/output error"):
        list(read_ahead(Watched(), batch_size=9))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
