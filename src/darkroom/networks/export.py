"""Save a trained network as Keras and ONNX files, and measure how far the two differ."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from darkroom.deployable.package import Package
from darkroom.errors import TrainingError
from darkroom.networks.runtime.onnx_export import export_onnx

PARITY_IMAGES = 256
STRANGENESS_TOLERANCE = 1e-3  # relative, because it is a square of float32 sums
PARITY_TOLERANCE = 1e-4  # of a probability; another order of summation in float32 stays below 1e-5


def check_backend() -> None:
    """Refuse a Keras backend that cannot write ONNX.

    Raises:
        TrainingError: the active backend is not TensorFlow.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise TrainingError(f"KERAS_BACKEND={backend} cannot export ONNX; expected tensorflow")


def save(
    model: keras.Model,
    *,
    keras_path: Path,
    onnx_path: Path,
    metadata: dict[str, Any],
    strangeness: keras.Model | None = None,
) -> None:
    """Write a deployable float32 model as model.keras and as ONNX with `metadata` inside (JSON under `darkroom`).

    Args:
        strangeness: a model of the same input, whose output becomes the second one of the ONNX file.

    Raises:
        TrainingError: the active Keras backend cannot write ONNX.
    """
    import onnx

    for path in (keras_path, onnx_path):
        path.unlink(missing_ok=True)  # it may be a link to DVC's cache
    model.save(keras_path)
    check_backend()
    exported = model if strangeness is None else keras.Model(model.input, [model.output, strangeness.output])
    exported(np.zeros((1, *model.input_shape[1:]), np.uint8))  # Keras exports only models that were called
    export_onnx(exported, onnx_path)
    graph = onnx.load(onnx_path)
    graph.metadata_props.add(key="darkroom", value=json.dumps(metadata, sort_keys=True))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    graph.producer_name = "darkroom"
    onnx.checker.check_model(graph)
    onnx.save(graph, onnx_path)


def onnx_difference(model: keras.Model, onnx_path: Path, images: np.ndarray) -> float:
    """Return the largest absolute difference between the probabilities of the model and of its ONNX file.

    Args:
        model: the deployable model that was exported as `onnx_path`.
        images: uint8 (n, H, W, C).
    """
    return float(np.abs(model.predict(images, verbose=0) - Package.load(onnx_path).probabilities(images)).max())


def strangeness_difference(model: keras.Model, onnx_path: Path, images: np.ndarray) -> float:
    """Return the largest relative difference between the strangeness of images by the model and by its ONNX file."""
    expected, found = model.predict(images, verbose=0), Package.load(onnx_path).strangeness(images)
    return float((np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max())


def export(
    model: keras.Model,
    directory: Path,
    *,
    metadata: dict[str, Any],
    images: np.ndarray,
    strangeness: keras.Model | None = None,
) -> float:
    """Write model.keras and model.onnx; return the largest difference of their probabilities on the images.

    Args:
        model: returned by deployable.
        directory: made if it does not exist.
        metadata: written into the ONNX file.
        images: uint8 (n, H, W, C).
        strangeness: see `save`.

    Raises:
        TrainingError: the ONNX file does not reproduce the Keras model.
    """
    directory.mkdir(parents=True, exist_ok=True)
    onnx_path = directory / "model.onnx"
    save(model, keras_path=directory / "model.keras", onnx_path=onnx_path, metadata=metadata, strangeness=strangeness)
    difference = onnx_difference(model, onnx_path, images)
    if not difference <= PARITY_TOLERANCE:
        raise TrainingError(
            f"{onnx_path}: its probabilities differ from the Keras model's by up to {difference:.2g} on {len(images)} "
            f"images, expected at most {PARITY_TOLERANCE:.0e}; the exported graph must not be deployed"
        )
    if strangeness and not (apart := strangeness_difference(strangeness, onnx_path, images)) <= STRANGENESS_TOLERANCE:
        raise TrainingError(
            f"{onnx_path}: how strange it finds images differs from the Keras model by up to {apart:.2g} of the value, "
            f"expected at most {STRANGENESS_TOLERANCE:.0e}; the exported graph must not be deployed"
        )
    return difference
