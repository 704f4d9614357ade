"""Pictures of a search as arrays, for tests that compare them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from darkroom.tuning.rows import TrialRow

Drawing = Callable[[Sequence[TrialRow], Path], Path]


def drawn(draw: Drawing, rows: Sequence[TrialRow], folder: Path) -> np.ndarray:
    path = draw(rows, folder / "picture.png")
    assert [file.name for file in folder.iterdir()] == ["picture.png"]
    return np.asarray(cv2.imread(str(path)))
