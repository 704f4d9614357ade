from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from darkroom.lr_find import figure

RATES = np.geomspace(1e-6, 10, 100)
FALL = 2.3 - 1.5 / (1 + (0.01 / RATES) ** 2)


def finding(losses: np.ndarray, *, cautious: float) -> Any:
    """What is drawn of a range_test.Finding, whose module loads Keras."""
    rates = {"suggestion": 0.01, "cautious": cautious, "greatest": 0.3}
    return SimpleNamespace(learning_rates=RATES, losses=losses, smoothed=losses, **rates)


def test_a_loss_that_explodes_does_not_flatten_its_fall(tmp_path: Path) -> None:
    def drawn(losses: np.ndarray) -> np.ndarray:
        path = figure.learning_rate_test(finding(losses, cautious=0.003), tmp_path / "lr.png", heading="$x_")
        assert [file.name for file in tmp_path.iterdir()] == ["lr.png"]
        return np.asarray(cv2.imread(str(path)))

    calm, exploded = drawn(FALL), drawn(FALL + np.where(RATES > 5, 1e4, 0))
    assert calm.std() > 5
    assert np.mean(calm[:, :800] != exploded[:, :800]) < 0.001


def test_a_loss_that_never_moves_is_drawn_too(tmp_path: Path) -> None:
    flat = np.full(100, 2.3)
    path = figure.learning_rate_test(finding(flat, cautious=0.01), tmp_path / "lr.png")
    assert path.read_bytes().startswith(b"\x89PNG")
