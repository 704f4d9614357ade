"""The stages of dvc.yaml, one module a verb.

A stage runs the darkroom package of its own checkout, also in the temporary copies that `dvc exp run --temp` makes.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("pydantic") is None:  # `.venv/bin/dvc repro` runs `python`, which is another one without activation
    sys.exit(f"error: {sys.executable} lacks the packages of this project; activate them with `. .venv/bin/activate`")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
