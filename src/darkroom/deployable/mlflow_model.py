"""The deployable model for MLflow: model.onnx, loaded by package.py, in a pyfunc saved as code (no pickle).

This file is copied into every logged model with package.py and its imports, and runs at the consumer without darkroom,
Keras or TensorFlow: mlflow, onnxruntime, numpy, pandas and OpenCV are enough. Nothing in darkroom imports it.
"""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ImageClassifier(PythonModel):  # type: ignore[misc]  # mlflow is not typed
    """Classifies encoded images or pixel arrays with the ONNX model beside it."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load model.onnx through the package.py of the same model folder."""
        model = Path(context.artifacts["model"])
        self.package = _load_module(model.parents[1] / "code" / "package.py").Package.load(model)

    # Also called with arrays and dicts; a wider type hint makes MLflow warn, or validate the input.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row per image: label, probability, probabilities (class -> probability), abstained.

        Also familiarity and unknown if the model can tell, and prediction_set if it has sets; see Package.predict.

        Args:
            model_input: a DataFrame with the column `image`, each value an encoded image (bytes, or base64 text), the
                path of one (not in MLflow's scoring server, where it would be the path of a stranger), or uint8
                (height, width, channels); or one uint8 array (n, height, width, channels).

        Raises:
            ValueError: the input has another form, or one of the images cannot be decoded.
        """
        del context, params
        index = model_input.index if isinstance(model_input, pd.DataFrame) else None
        rows = self.package.predict(_items(model_input), paths=not _answers_strangers())
        return pd.DataFrame(rows, index=index, columns=self.package.columns)


def _answers_strangers() -> bool:
    """Return whether MLflow's scoring server (also inside another process) or MLServer passes untrusted input."""
    if "__pyfunc_model_path__" in os.environ or {"mlflow.pyfunc.scoring_server.app", "mlserver"} & sys.modules.keys():
        return True
    frame: FrameType | None = sys._getframe()
    while frame:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == ("mlflow.pyfunc.scoring_server", "invocations"):
            return True
        frame = frame.f_back
    return False


def _items(model_input: Any) -> list[Any]:
    """Return the images as a list, from any container of MLflow or its scoring server."""
    if isinstance(model_input, pd.DataFrame):
        if "image" not in model_input.columns:
            raise ValueError(f"the DataFrame has the columns {list(model_input.columns)}, expected a column 'image'")
        return [_item(value) for value in model_input["image"]]
    if isinstance(model_input, dict):
        if "image" not in model_input:
            raise ValueError(f"the input has the keys {list(model_input)}, expected 'image'")
        return [_item(value) for value in model_input["image"]]
    if isinstance(model_input, np.ndarray) and model_input.dtype != object and model_input.ndim in (1, 3):
        kind = f"an array of shape {model_input.shape} and dtype {model_input.dtype}"
        if model_input.dtype.kind not in "SU":
            raise ValueError(f"the input is {kind}, expected uint8 (n, height, width, channels)")
    if isinstance(model_input, np.ndarray | list | tuple):
        return [_item(value) for value in model_input]
    kind = type(model_input).__name__
    raise ValueError(f"the input is a {kind}, expected a DataFrame with a column 'image' or a uint8 array")


def _item(value: Any) -> Any:
    if isinstance(value, str | bytes | Path):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    pixels = np.asarray(value)
    if pixels.dtype == np.uint8:
        return pixels
    # JSON has no uint8: pixels that came through the scoring server are 64-bit integers or nested lists of them.
    if pixels.dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255:
        return pixels.astype(np.uint8)
    raise ValueError(
        f"an image is an array of shape {pixels.shape} and dtype {pixels.dtype}, expected uint8 with values 0 to 255"
    )


def _load_module(path: Path) -> ModuleType:
    """Import the file as a package of its own name: two versions loaded in one process must not share their code.

    Its relative imports then find the files beside it.
    """
    name = f"_darkroom_package_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except ImportError:
            del sys.modules[name]  # once what it needs is installed, it can be loaded
            raise
    return sys.modules[name]


set_model(ImageClassifier())
