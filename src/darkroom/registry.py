"""The only owner of registered names, versions, aliases and their history; what readers need is in versions.py.

MLflow's aliases know no compare-and-set and no history. Here every move happens under a file lock of the repository,
only if the alias still points where the caller saw it, is read back, and is recorded as one more tag history.NNNNNN of
the registered model. A call that was interrupted can be repeated: a version is recognised by its model's sha256.
"""

import getpass
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import RegistryError
from darkroom.files import sha256_of
from darkroom.store import client, download, existing, store_errors, store_lock, tracking_uri
from darkroom.versions import HISTORY, MODEL_FILE, Registered, Version, find, read

if TYPE_CHECKING:
    import numpy as np

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROLLED_BACK = "rolled_back"  # version tag: why it must not become champion again by itself
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
    """Return the version of a logged model, registered now unless a version with the same model.onnx exists.

    Args:
        model_uri: what `Run.log_package` returned.
        model_sha256: of the model.onnx that was evaluated.
        tags: lineage; the sha256 of every file is added as sha256/<path>.

    Raises:
        RegistryError: the store has no such model, holds another model.onnx under that URI, or refuses.
    """
    opened = client()
    with store_errors(tracking_uri()), tempfile.TemporaryDirectory() as scratch:
        folder = download(model_uri, scratch)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sums = {f"sha256/{path.relative_to(folder).as_posix()}": sha256_of(path) for path in files}
    if sums.get(f"sha256/{MODEL_FILE}") != model_sha256:
        found = sums.get(f"sha256/{MODEL_FILE}", "none")
        raise RegistryError(
            f"{model_uri} holds a model.onnx with sha256 {found[:12]}..., evaluated was {model_sha256[:12]}...; "
            "train and evaluate again (`dvc repro --force train`)"
        )
    with store_lock("registry"):
        known = read(name).with_model(model_sha256)
        if known:
            return known
        with store_errors(tracking_uri()):
            if existing(lambda: opened.get_registered_model(name)) is None:
                opened.create_registered_model(name)
            model_id = model_uri.removeprefix("models:/")
            created = opened.create_model_version(name, source=model_uri, tags={**tags, **sums}, model_id=model_id)
    return find(name, version=str(created.version))


def verify(version: Version, images: "np.ndarray", expected: "np.ndarray", *, tolerance: float = 1e-5) -> float:
    """Return the greatest difference between what the registered version answers and what was evaluated.

    The version is loaded as a consumer does, from `models:/<name>/<version>`, in a fresh process in which darkroom,
    Keras and TensorFlow cannot be imported.

    Args:
        images: (n, height, width, channels), uint8.
        expected: (n, classes), the probabilities that evaluate recorded for them.

    Raises:
        RegistryError: the version cannot be loaded, or a probability differs by more than `tolerance`.
    """
    import numpy as np

    uri = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "images.npy"), Path(scratch, "probabilities.npy")
        np.save(source, images)
        client()  # sets MLFLOW_TRACKING_URI for the child
        command = [sys.executable, "-c", VERIFY, uri, str(source), str(target)]
        ended = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            raise RegistryError(f"{uri} cannot be loaded in a fresh process, it stays out of production: {last}")
        found = np.load(target)
    if found.shape != expected.shape:
        raise RegistryError(f"{uri} answers with shape {found.shape}, evaluated was {expected.shape}")
    difference = float(np.abs(found - expected).max(initial=0.0))
    if not difference <= tolerance:
        raise RegistryError(
            f"{uri} differs from the evaluated model by {difference:.2g} in a probability, at most {tolerance:.2g} is "
            "allowed; it stays out of production"
        )
    return difference


def challenge(version: Version, *, reasons: Sequence[str]) -> None:
    """Point `challenger` at the version."""
    with store_lock("registry"):
        registered = read(version.name)
        _move(registered, CHALLENGER, version.version, reasons)


def promote(version: Version, *, replacing: str | None, reasons: Sequence[str]) -> None:
    """Point `champion` at the version and `previous` at the champion it replaces.

    Args:
        replacing: the champion's version that the decision was taken against, None if there was none.

    Raises:
        RegistryError: the champion is another one by now.
    """
    with store_lock("registry"):
        registered = read(version.name)
        current = registered.aliases.get(CHAMPION)
        if current == version.version:
            return
        if current != replacing:
            raise RegistryError(
                f"{version.name}: the champion is version {current or 'none'} by now, the decision was taken against "
                f"{replacing or 'none'}; run `dvc repro promote` again"
            )
        _set_tag(version, ROLLED_BACK, None)
        if current:
            _move(registered, PREVIOUS, current, [f"replaced by version {version.version}"])
        _move(read(version.name), CHAMPION, version.version, reasons)


def rollback(name: str, *, reason: str) -> tuple[Version, Version]:
    """Exchange `champion` and `previous` and return both as they are now: (champion, previous).

    The version that was rolled back is tagged, so that the next `dvc repro` does not promote it again.

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    find(name, alias=CHAMPION)
    with store_lock("registry"):
        registered = read(name)
        champion, previous = registered.under(CHAMPION), registered.under(PREVIOUS)
        if champion is None or previous is None:
            raise RegistryError(f"{name} has no alias {PREVIOUS!r}: nothing was champion before, nothing to go back to")
        if champion.version == previous.version:
            raise RegistryError(f"{name}: version {champion.version} is champion and previous: nothing to go back to")
        _set_tag(champion, ROLLED_BACK, reason)
        _set_tag(previous, ROLLED_BACK, None)
        _move(registered, CHAMPION, previous.version, [f"rollback: {reason}"])
        _move(read(name), PREVIOUS, champion.version, [f"rolled back: {reason}"])
    return find(name, alias=CHAMPION), find(name, alias=PREVIOUS)


def _move(registered: Registered, alias: str, to: str, reasons: Sequence[str]) -> None:
    """Set one alias, read it back, record the move. The lock is held by the caller."""
    name, before = registered.name, registered.aliases.get(alias)
    recorded = next((entry["to"] for entry in reversed(registered.history()) if entry["alias"] == alias), None)
    if before != recorded:  # a call died between move and record, or somebody used the MLflow UI
        _record(name, alias, recorded, before, ["found so; moved without a record"], who="unknown")
    if before == to:
        return
    with store_errors(tracking_uri()):
        client().set_registered_model_alias(name, alias, to)
    now = read(name).aliases.get(alias)
    if now != to:
        raise RegistryError(f"{name}: {alias} was set to version {to} and reads {now}; somebody else moved it just now")
    _record(name, alias, before, to, reasons)


def _record(
    name: str, alias: str, before: str | None, to: str | None, reasons: Sequence[str], who: str | None = None
) -> None:
    taken = [int(key.removeprefix(HISTORY)) for key in read(name).tags if key.startswith(HISTORY)]
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": who or f"{_user()}@{socket.gethostname()}",
        "alias": alias,
        "from": before,
        "to": to,
        "reasons": [reason[:800] for reason in reasons][:5],  # MLflow's column holds 5000 characters
    }
    with store_errors(tracking_uri()):
        client().set_registered_model_tag(name, f"{HISTORY}{max(taken, default=0) + 1:06d}", json.dumps(entry))


def _set_tag(version: Version, key: str, value: str | None) -> None:
    with store_errors(tracking_uri()):
        if value is not None:
            client().set_model_version_tag(version.name, version.version, key, value)
        elif key in version.tags:
            client().delete_model_version_tag(version.name, version.version, key)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user id
        return "unknown"
