"""The provenance of a result: commit, uncommitted changes, locked inputs, versions; and its MLflow tags."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ruamel.yaml import YAML

from darkroom.project.merge_conflicts import refuse_conflicts
from darkroom.project.params import digest

PACKAGE = Path(__file__).resolve().parents[1]
LINEAGE = ("dvc.stage", "dvc.exp_name", "git.commit", "git.dirty", "data.digest", "params.digest", "candidate")
CODE_AND_PARAMS = (":/", ":!/dvc.lock", ":!/data/incoming/*.dvc")  # paths for git
PACKAGES = ("darkroom", "keras", "tensorflow", "numpy", "opencv-python-headless", "onnxruntime", "mlflow", "dvc")


def git_commit() -> str:
    """Return the full hash of the checked-out commit, "unknown" outside a git repository or without git."""
    return _git("rev-parse", "HEAD") or "unknown"


def git_dirty() -> bool:
    """Return whether a tracked file differs from the commit, which MLflow's own git tags do not record.

    dvc.lock and the .dvc files of new images are left out: DVC rewrites them within one `dvc repro` or retraining, and
    data.digest covers the data. Outside a git repository the result is True, because the code is unknown.
    """
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", *CODE_AND_PARAMS)
    return changes is None or changes != ""


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed; nothing is imported."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def lock_digest(path: Path) -> str:
    """Return a digest of dvc.lock without the stages check and promote, "none" before the first `dvc repro`.

    promote calls this before DVC writes promote's own entry, so without it the commit gives the same digest.
    The entry of check changes with every key of params.yaml, even if no result changes.

    Raises:
        DataError: a merge left conflicts in it.
    """
    if not path.is_file():
        return "none"
    refuse_conflicts(path)
    stages = YAML(typ="safe", pure=True).load(path).get("stages") or {}
    return digest({name: said for name, said in stages.items() if name not in ("check", "promote")})


def source_digest(paths: Iterable[str]) -> str:
    """Return one sha256 of the files under these paths of the package, such as "training" and "errors.py".

    Raises:
        FileNotFoundError: a path does not exist.
    """
    content = []
    for path in (PACKAGE / name for name in sorted(paths)):
        files = sorted(file for file in path.rglob("*") if file.suffix in (".py", ".yaml")) if path.is_dir() else [path]
        content += [file.read_bytes() for file in files]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


def lineage_tags(*, data_digest: str, params_digest: str, candidate: str) -> dict[str, str]:
    """Return the tags of every run and registered version, for the calling stage.

    DVC sets the stage in DVC_STAGE, and the experiment in DVC_EXP_NAME (only in `dvc exp run`).
    """
    return {
        "dvc.stage": os.environ.get("DVC_STAGE", "none"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME", "none"),
        "git.commit": git_commit(),
        "git.dirty": str(git_dirty()).lower(),
        "data.digest": data_digest,
        "params.digest": params_digest,
        "candidate": candidate,
    }


def _git(*arguments: str) -> str | None:
    """Return git's answer, None if it has none."""
    try:
        ended = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
