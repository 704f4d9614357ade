"""Export Keras models as ONNX, without the irrelevant messages of the libraries involved."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def export_onnx(model: "keras.Model", path: Path) -> None:
    """Write the model, which must have been called before, as ONNX.

    The caller must check that the graph computes the same as the model.
    """
    with _quiet():
        model.export(path, format="onnx", verbose=False)


@contextmanager
def _quiet() -> Iterator[None]:
    # If an optimization fails, as for MobileNetV3, tf2onnx logs a traceback and continues with the unchanged graph.
    logger = logging.getLogger("tf2onnx.optimizer")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # Keras' copy of tf2onnx
            yield
    finally:
        logger.setLevel(before)
