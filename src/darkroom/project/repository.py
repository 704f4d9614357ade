"""The root of this repository."""

import os
from pathlib import Path

from darkroom.errors import ParamsError


def repository_root() -> Path:
    """Return the repository whose store is used: DVC_ROOT, else the nearest directory upward with a dvc.yaml, else the
    current one. In the temporary copies of `dvc exp run --temp` and `--queue` DVC_ROOT is the original repository."""
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


def is_experiment_in_place() -> bool:
    """Return whether `dvc exp run` runs this process without --temp or --queue: it leaves its params in params.yaml."""
    return bool(os.environ.get("DVC_EXP_NAME")) and Path.cwd().resolve() == repository_root()


def checkout() -> Path:
    """Return the root of the repository.

    Raises:
        ParamsError: the current directory is not in one.
    """
    root = repository_root()
    if not (root / "dvc.yaml").is_file() and not (root / "params.yaml").is_file():
        raise ParamsError(f"{root} is not in a Darkroom repository: no dvc.yaml here or above; cd into one")
    return root
