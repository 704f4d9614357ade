"""The root of this repository."""

import os
from pathlib import Path


def repository_root() -> Path:
    """Return the repository whose store is used: DVC_ROOT, which names the parent repository in the temporary copies of
    `dvc exp run --temp` and `--queue`; without it the nearest directory upward with a dvc.yaml, or the current one."""
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)
