"""The stages of dvc.yaml, one module a verb.

A stage runs the darkroom package of its own checkout, also in the temporary copies that `dvc exp run --temp` makes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
