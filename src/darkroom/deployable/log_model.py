"""Log model.onnx as the deployable MLflow model of a run: a pyfunc saved as code."""

import base64
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from darkroom.deployable.code_files import IMPORTED
from darkroom.deployable.package import Package

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient


def log_package(
    client: "MlflowClient",
    run_id: str,
    onnx_path: Path,
    *,
    seen: Path | None,
    input_example: "np.ndarray | None",
    step: int,
) -> str:
    """Log the model as an output of the run, and return its URI `models:/m-...`.

    The signature has only outputs. MLflow checks every input against a signature before `predict`, and a column
    `image`, even of any type, would refuse the arrays (n, height, width, channels) that `predict` also accepts.

    Args:
        onnx_path: the file that package.py loads; it is stored as model.onnx.
        seen: a file to store beside it for comparisons of versions; consumers do not read it.
        input_example: (n, height, width, channels), uint8; the first image is stored as an example request.
        step: the epoch whose metrics MLflow copies to the model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice about type hints and examples, and its use of old pandas
        from mlflow.models import Model, ModelSignature
        from mlflow.types.schema import Array, ColSpec, DataType, Map, Schema

        types = {
            "label": DataType.string,
            "probability": DataType.double,
            "probabilities": Map(DataType.double),
            "abstained": DataType.boolean,
            "familiarity": DataType.double,
            "unknown": DataType.boolean,
            "prediction_set": Array(DataType.string),
        }
        outputs = [ColSpec(type=types[name], name=name) for name in Package.load(onnx_path).columns]
        here = Path(__file__).parent
        with TemporaryDirectory() as folder:
            model_file = Path(folder, "model.onnx")
            copyfile(onnx_path, model_file)
            files = {"model": str(model_file)}
            if seen:  # copied too: MLflow decodes a path like "%20"
                files["seen"] = str(copyfile(seen, Path(folder, seen.name)))
            found = client.get_run(run_id)
            # Created here and not by Model.log, which would use MLflow's active experiment.
            logged = client.create_logged_model(
                found.info.experiment_id, "package", run_id, params=found.data.params, model_type="classifier"
            )
            Model.log(
                artifact_path=None,
                name="package",
                model_id=logged.model_id,
                run_id=run_id,
                step=step,
                flavor=_Pyfunc,
                flavor_name="pyfunc",
                python_model=str(here / "mlflow_model.py"),
                artifacts=files,
                code_paths=[str(here / name) for name in ("package.py", *IMPORTED)],
                signature=ModelSignature(outputs=Schema(outputs)),
                input_example=None if input_example is None else _example(input_example),
                pip_requirements=_requirements(),
            )
    return f"models:/{logged.model_id}"


class _Pyfunc:
    """MLflow's pyfunc flavour without a trial prediction on the input example, which would import the model here."""

    @staticmethod
    def save_model(**kwargs: Any) -> None:
        import mlflow.pyfunc

        kwargs.pop("validate_serving_input", None)
        mlflow.pyfunc.save_model(**kwargs)


def _example(images: "np.ndarray") -> "pd.DataFrame":
    """Return a DataFrame with the first image as base64 PNG in the column `image`."""
    import cv2
    import pandas as pd

    image = images[0] if images.shape[-1] == 1 else images[0][..., ::-1]  # OpenCV writes BGR
    return pd.DataFrame({"image": [base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()]})


def _requirements() -> list[str]:
    """Return a consumer's requirements, at the installed versions; MLflow would load the model to infer them."""
    pinned = []
    for name in ("mlflow", "onnxruntime", "numpy", "pandas", "opencv-python-headless"):
        try:
            pinned.append(f"{name}=={version(name)}")
        except PackageNotFoundError:  # another build of it (onnxruntime-gpu, opencv-python) is installed
            pinned.append(name)
    return pinned
