"""Compute features by a frozen backbone, with ONNX Runtime on a CPU and Keras on a GPU; images are read ahead."""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from darkroom.compute.stream import n_workers_of
from darkroom.errors import TrainingError
from darkroom.networks.runtime import device
from darkroom.networks.runtime.onnx_export import export_onnx

GPU_BATCH_SIZE = 256
# On a CPU the values of a layer should fit into the cache: with EfficientNet-Lite0 on 2 cores, batches of 32 at 160 px
# were a fifth slower than batches of 8, and batches of 256 half as fast; at 64 px batches of 32 were fastest.
CPU_BATCH_PIXELS = 8 * 160 * 160
CPU_BATCH_SIZES = (4, 32)  # the smallest and the largest
READ_AHEAD = 2  # batches read while one is computed; bounds the memory

PARITY_TOLERANCE = 1e-3  # of the largest feature; another order of summation in float32 stays below 1e-4

Runtime = Literal["onnx", "keras"]
NAMES: dict[Runtime, str] = {"onnx": "ONNX Runtime", "keras": "Keras"}
Compute = Callable[[np.ndarray], np.ndarray]


def fastest_runtime() -> Runtime:
    """Return the fastest runtime: Keras on a GPU; ONNX Runtime on a CPU, if Keras' backend can export ONNX.

    On a CPU the same float32 network runs about twice as fast in ONNX Runtime as in TensorFlow (benchmarks/embed.py).
    """
    return "onnx" if keras.backend.backend() == "tensorflow" and not device.gpus() else "keras"


def batch_size_of(runtime: Runtime, image_size: tuple[int, int]) -> int:
    """Return the batch size for a (height, width) in pixels of the backbone's input."""
    if runtime == "keras":
        return GPU_BATCH_SIZE
    least, greatest = CPU_BATCH_SIZES
    return max(least, min(greatest, CPU_BATCH_PIXELS // (image_size[0] * image_size[1])))


class Embedder:
    """Computes the features of images with an extractor.

    Args:
        extractor: uint8 (n, H, W, C) in, float32 (n, features) out.
        image_size: (height, width) in pixels of the backbone's input, None for that of the images.
        runtime: None for the fastest here.
        batch_size: None for batch_size_of().
    """

    def __init__(
        self,
        extractor: keras.Model,
        *,
        image_size: tuple[int, int] | None = None,
        runtime: Runtime | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.runtime = runtime or fastest_runtime()
        self.batch_size = batch_size or batch_size_of(self.runtime, image_size or extractor.input_shape[1:3])
        self.n_features: int = extractor.output_shape[-1]
        self._name = extractor.name
        self._compute = _by_onnx(extractor) if self.runtime == "onnx" else _by_keras(extractor, self.batch_size)

    def __call__(self, images: Any, *, on_batch: Callable[[int], object] | None = None) -> Iterator[np.ndarray]:
        """Yield the features of images block by block, in their order: float32 (at most batch_size, n_features).

        Args:
            images: uint8 (n, H, W, C), or an object with a length that an int array indexes (selection.Selection).
            on_batch: called with the number of images of every block, after the block was consumed.

        Raises:
            TrainingError: a feature is not finite.
        """
        done = 0
        for batch in read_ahead(images, batch_size=self.batch_size):
            features = self._compute(batch)
            if not np.isfinite(features).all():
                raise TrainingError(
                    f"{self._name}: the features of images {done} to {done + len(batch) - 1} are not all finite; the "
                    "weights do not fit this backbone; set embed.weights to others"
                )
            done += len(batch)
            yield features
            if on_batch is not None:
                on_batch(len(batch))


def read_ahead(images: Any, *, batch_size: int) -> Iterator[np.ndarray]:
    """Yield images in batches of batch_size, the last smaller, while a thread reads the next ones."""
    starts = iter(range(0, len(images), batch_size))
    waiting: deque[Future[np.ndarray]] = deque()

    def read(start: int) -> np.ndarray:
        return np.asarray(images[np.arange(start, min(start + batch_size, len(images)))])

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        waiting.extend(reader.submit(read, start) for _, start in zip(range(READ_AHEAD), starts, strict=False))
        while waiting:
            batch = waiting.popleft().result()
            if (start := next(starts, None)) is not None:
                waiting.append(reader.submit(read, start))
            yield batch


def _by_onnx(extractor: keras.Model) -> Compute:
    """Return a function from images to features that runs on all cores this process may use.

    Raises:
        TrainingError: the exported graph does not reproduce the extractor's features.
    """
    import onnxruntime  # a GPU machine that only trains does not have it

    sample = np.random.default_rng(0).integers(0, 256, (4, *extractor.input_shape[1:]), dtype=np.uint8)
    expected = np.asarray(extractor(sample, training=False))  # Keras exports only models that were called
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_workers_of("auto")
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "extractor.onnx"
        export_onnx(extractor, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def compute(batch: np.ndarray) -> np.ndarray:
        features: np.ndarray = session.run(None, {name: batch})[0]
        return features

    # Keras' Resizing switches the layers after it to training mode unless they are called with training=False.
    difference, greatest = np.abs(compute(sample) - expected).max(), np.abs(expected).max()
    if difference > PARITY_TOLERANCE * greatest:
        raise TrainingError(
            f"{extractor.name}: features of its ONNX graph differ from those of the Keras model by {difference:.2g}, "
            f"expected at most {PARITY_TOLERANCE * greatest:.2g}; call its layers with training=False"
        )
    return compute


def _by_keras(extractor: keras.Model, batch_size: int) -> Compute:
    """Return a function from images to features that runs on Keras' device.

    All batches have one size, so that the graph is compiled once: the last one is padded with black images.
    """

    def compute(batch: np.ndarray) -> np.ndarray:
        missing = batch_size - len(batch)
        whole = np.pad(batch, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else batch
        return np.asarray(extractor.predict_on_batch(whole), np.float32)[: len(batch)]

    return compute
