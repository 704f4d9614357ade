"""Register a model as a version, verify it in a clean process, and give it its card."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import RegistryError
from darkroom.files.writing import sha256_of
from darkroom.registry.ledger import ledger
from darkroom.registry.snapshot import DOWNLOAD_NOTE, MODEL_FILE, SHA256, Version
from darkroom.registry.versions import damage, find
from darkroom.tracking import runs
from darkroom.tracking.pages import version_page
from darkroom.tracking.store import client, download, existing, registry_uri, store_errors, tracking_uri

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient

DESCRIPTION_CHARACTERS = 5000  # MLflow's limit for a version's description
VERIFY = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("darkroom", "keras", "tensorflow"):
            raise ImportError(f"a consumer has no {name}")

sys.meta_path.insert(0, Refuse())
import numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = model.predict(np.load(sys.argv[2]))["probabilities"]
np.save(sys.argv[3], np.array([list(row.values()) for row in rows]))
"""


def register(name: str, *, model_uri: str, model_sha256: str, tags: Mapping[str, str]) -> Version:
    """Register a logged model and return its version, or an undamaged existing one with the same model.onnx.

    Args:
        model_uri: returned by Run.log_package.
        model_sha256: of the evaluated model.onnx.
        tags: lineage; the sha256 of every file is added as sha256/<path>.

    Raises:
        RegistryError: the store has no such model, has another model.onnx under that URI, or refuses.
    """
    opened = client()
    with store_errors(tracking_uri()), tempfile.TemporaryDirectory() as scratch:
        folder = download(model_uri, scratch)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DOWNLOAD_NOTE)
        sums = {f"{SHA256}{path.relative_to(folder).as_posix()}": sha256_of(path) for path in files}
    if sums.get(f"{SHA256}{MODEL_FILE}") != model_sha256:
        found = sums.get(f"{SHA256}{MODEL_FILE}", "none")
        raise RegistryError(
            f"{model_uri} has a model.onnx with sha256 {found[:12]}..., the evaluated one is {model_sha256[:12]}...; "
            "train and evaluate again (`dvc repro --force train`)"
        )
    _create(opened, name)
    with ledger(name) as book:
        known = book.read().with_model(model_sha256)
        if known and not damage(known):
            return known
        model_id = model_uri.removeprefix("models:/")
        with book.writing():
            created = opened.create_model_version(name, source=model_uri, tags={**tags, **sums}, model_id=model_id)
    return find(name, version=str(created.version))


def verify(version: Version, images: "np.ndarray", expected: "np.ndarray", *, tolerance: float = 1e-5) -> float:
    """Return the largest difference between probabilities of the registered version and the evaluated ones.

    The version is loaded as by a consumer, from `models:/<name>/<version>`, in a new process that cannot import
    darkroom, Keras or TensorFlow.

    Args:
        images: (n, height, width, channels), uint8.
        expected: (n, classes), the probabilities recorded by evaluate.

    Raises:
        RegistryError: the version cannot be loaded, or a probability differs by more than `tolerance`.
    """
    import numpy as np

    uri = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "images.npy"), Path(scratch, "probabilities.npy")
        np.save(source, images)
        client()  # sets MLFLOW_TRACKING_URI for the child
        command = [sys.executable, "-B", "-c", VERIFY, uri, str(source), str(target)]
        ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            raise RegistryError(f"{uri} cannot be loaded in a fresh process and is not promoted: {last}")
        found = np.load(target)
    if found.shape != expected.shape:
        raise RegistryError(f"{uri} returns shape {found.shape}, the evaluated model {expected.shape}")
    difference = float(np.abs(found - expected).max(initial=0.0))
    if not difference <= tolerance:
        raise RegistryError(
            f"probabilities of {uri} differ from the evaluated model by up to {difference:.2g}; at most "
            f"{tolerance:.2g} is "
            "allowed; it is not promoted"
        )
    return difference


def store_card(version: Version, *, markdown: str, html: str, description: str) -> list[str]:
    """Store a version's model card as files of its run and as its description in MLflow's UI; return the files.

    The files are not stored beside the model, where every file has a checksum of the registration.

    Args:
        description: short Markdown, cut after 5000 characters.
    """
    opened, kept = client(), []
    with store_errors(tracking_uri()):
        with runs.reopen_if_known(version.run_id) as run:
            if run:
                folder = f"model_card/{version.name}-{version.version}"
                opened.log_text(run.id, markdown, f"{folder}/model_card.md")
                opened.log_text(run.id, html, f"{folder}/model_card.html")
                kept.append(f"runs:/{run.id}/{folder}")
                page = version_page(version.name, version.version)
                run.note("Version", f"[{version.name} version {version.version}]({page})")
        text = description[:DESCRIPTION_CHARACTERS]
        opened.update_model_version(version.name, version.version, description=text)
    return [*kept, f"models:/{version.name}/{version.version}"]


def _create(opened: "MlflowClient", name: str) -> None:
    """Create the registered name if there is none, before taking the lock, which may need it."""
    from mlflow.exceptions import MlflowException

    with store_errors(registry_uri()):
        if existing(lambda: opened.get_registered_model(name)) is None:
            try:
                opened.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    raise
