"""The root of this repository."""

import os
from pathlib import Path

from darkroom.errors import ParamsError


def repository_root() -> Path:
    """Return the repository whose store is used: DVC_ROOT, which names the parent repository in the temporary copies of
    `dvc exp run --temp` and `--queue`; without it the nearest directory upward with a dvc.yaml, or the current one."""
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


def is_experiment_in_place() -> bool:
    """Return whether `dvc exp run` runs this process without --temp or --queue: it leaves its params in params.yaml."""
    return bool(os.environ.get("DVC_EXP_NAME")) and Path.cwd().resolve() == repository_root()


def checkout() -> Path:
    """Return the repository, for what works on the files of one.

    Raises:
        ParamsError: the current directory lies in none.
    """
    root = repository_root()
    if not (root / "dvc.yaml").is_file() and not (root / "params.yaml").is_file():
        raise ParamsError(f"{root} is not in a Darkroom repository: no dvc.yaml here or above; cd into one")
    return root
