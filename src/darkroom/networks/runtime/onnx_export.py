"""Keras models written as ONNX, without the words of the tools on the way that say nothing to a user."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def export_onnx(model: "keras.Model", path: Path) -> None:
    """Write the model as ONNX; Keras asks that it was called before. What fails is an exception, as without this.

    Whether the graph computes what the model does is for the caller to compare.
    """
    with _quiet():
        model.export(path, format="onnx", verbose=False)


@contextmanager
def _quiet() -> Iterator[None]:
    # Of an optimization that fails, tf2onnx warns with a traceback and goes on with the graph as it was: MobileNetV3.
    logger = logging.getLogger("tf2onnx.optimizer")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # Keras' copy of tf2onnx
            yield
    finally:
        logger.setLevel(before)
