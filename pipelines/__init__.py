"""The stages of dvc.yaml, one module each, named by a verb.

A stage runs the darkroom package of its own checkout, also in the temporary copies that `dvc exp run --temp` makes.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# `.venv/bin/dvc repro` without activation runs the system's python3. DVC_ROOT is the repository, also in such copies.
if any(find_spec(name) is None for name in ("pydantic", "albumentations", "optuna")):
    own = Path(os.environ.get("DVC_ROOT", ".")).absolute() / ".venv" / "bin" / "python"
    if own.is_file() and Path(sys.executable) != own:
        os.execv(own, [str(own), *sys.orig_argv[1:]])  # noqa: S606
    sys.exit(f"error: {sys.executable} lacks the packages of this project; activate them with `. .venv/bin/activate`")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
