"""Write to one MLflow run: params, metrics, tags, description and artifacts."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from darkroom.errors import RegistryError
from darkroom.project.params import flatten
from darkroom.tracking.pages import NOTE, run_page
from darkroom.tracking.store import existing, store_errors

if TYPE_CHECKING:
    import numpy as np

SUBJECTS = ("Version", "Decision", "Test", "Validation", "Settings", "Commit")  # of a description, in this order
CURVE = "epoch/"  # prefix of metrics with a value per epoch; MLflow shows them as a group of charts
KEY_LENGTH = 250  # MLflow's limit for the name of a param


def logged(params: Mapping[str, Any]) -> dict[str, str]:
    """Return nested params as those of an MLflow run: dotted names, and text.

    Characters that MLflow does not allow in a name, such as those of a class in class_weights, become their hexadecimal
    code points.
    """
    return {
        re.sub(r"[^\w. :-]", lambda found: f"_x{ord(found[0]):x}_", key)[:KEY_LENGTH]: value
        for key, value in flatten(params).items()
    }


@dataclass(frozen=True)
class Run:
    """One MLflow run to write to; metrics have explicit steps, so a resumed run continues."""

    id: str
    experiment: str
    experiment_id: str
    tracking_uri: str
    _client: Any

    def log_epoch(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Record the metrics of one epoch, counted from 1, in one transaction.

        They are points of the curves epoch/NAME, at the step `epoch`. MLflow's tables show the last point of a curve,
        which is not the kept epoch, so the metrics for comparing runs have other names.
        """
        self.log_metrics({f"{CURVE}{name}": value for name, value in logs.items()}, step=epoch)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, model_uri: str = "") -> None:
        """Record metrics at the step (0 if None).

        Args:
            model_uri: returned by log_package; the metrics are also recorded for that model, if this store has it.
        """
        from mlflow.entities import Metric

        now, model = int(time.time() * 1000), model_uri.removeprefix("models:/") or None
        with store_errors(self.tracking_uri):
            if model and not existing(lambda: self._client.get_logged_model(model)):
                model = None
            entries = [Metric(name, float(value), now, step or 0, model_id=model) for name, value in metrics.items()]
            self._client.log_batch(self.id, metrics=entries)

    def rename(self, name: str) -> None:
        """Give the run another name."""
        with store_errors(self.tracking_uri):
            self._client.update_run(self.id, name=name)

    def note(self, about: str, text: str) -> None:
        """Write one paragraph of the run's description, or replace the one about the same subject.

        MLflow folds a description after a few lines, so paragraphs are in the order of SUBJECTS, not of time.
        """
        with store_errors(self.tracking_uri):
            told = self._client.get_run(self.id).data.tags.get(NOTE, "").split("\n\n")
            start = f"**{about}:** "
            kept = [paragraph for paragraph in told if paragraph and not paragraph.startswith(start)]
            order = [f"**{subject}:** " for subject in SUBJECTS]
            ranks = {
                paragraph: next((rank for rank, first in enumerate(order) if paragraph.startswith(first)), -1)
                for paragraph in [*kept, start + text]
            }
            self._client.set_tag(self.id, NOTE, "\n\n".join(sorted(ranks, key=lambda paragraph: ranks[paragraph])))

    def page(self, artifact: str = "") -> str:
        """Return the address of the run, or of one of its artifacts, in MLflow's UI."""
        return run_page(self.experiment_id, self.id, artifact)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on the run, over existing ones."""
        from mlflow.entities import RunTag

        with store_errors(self.tracking_uri):
            self._client.log_batch(self.id, tags=[RunTag(key, str(value)[:8000]) for key, value in tags.items()])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record nested params twice: as flat params with dotted keys, and as the artifact params.yaml.

        Raises:
            RegistryError: a resumed run has another value of one of them.
        """
        from mlflow.entities import Param

        flat = logged(params)
        with store_errors(self.tracking_uri):
            known = self._client.get_run(self.id).data.params
            for key in flat.keys() & known.keys():
                if flat[key] != known[key]:
                    raise RegistryError(
                        f"run {self.id} cannot be resumed: its param {key} was {known[key]!r} and is now {flat[key]!r}"
                    )
            entries = [Param(key, value) for key, value in flat.items() if key not in known]
            for start in range(0, len(entries), 100):  # MLflow's limit for one batch
                self._client.log_batch(self.id, params=entries[start : start + 100])
            text = StringIO()
            YAML(typ="safe", pure=True).dump(json.loads(json.dumps(params, default=str)), text)
            self._client.log_text(self.id, text.getvalue(), "params.yaml")

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file or directory into the run's artifacts, under `folder`."""
        with store_errors(self.tracking_uri):
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(self.id, str(path), folder or None)

    def log_dataset(self, name: str, digest: str, source: str, counts: Mapping[str, Any]) -> None:
        """Record the dataset of the run; MLflow keeps 36 characters of the digest, so a tag has all of it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:36],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(counts),
        )
        with store_errors(self.tracking_uri):
            self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        self.set_tags({"data.digest": digest})

    def log_package(
        self, onnx_path: Path, *, seen: Path | None = None, input_example: "np.ndarray | None" = None, step: int = 0
    ) -> str:
        """Store model.onnx as the deployable MLflow model of this run and return its URI, `models:/m-...`.

        Args:
            onnx_path: the file that package.py loads; it is stored as model.onnx.
            seen: the ids of the images that the model was trained and tuned on, stored beside it.
            input_example: (n, height, width, channels), uint8; the first image is stored as a base64 PNG, as an example
                for `predict` and `mlflow models serve`.
            step: the epoch whose metrics MLflow shows beside the model.
        """
        from darkroom.deployable.log_model import log_package

        with store_errors(self.tracking_uri):
            return log_package(self._client, self.id, onnx_path, seen=seen, input_example=input_example, step=step)
