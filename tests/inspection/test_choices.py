"""The candidates for a dataset, at the borders of its size; tests/cli/test_init.py has whole datasets."""

from types import SimpleNamespace
from typing import Any

import pytest

from darkroom.cli import presets
from darkroom.inspection.choices import candidates
from tests.support.project import ROOT

MODE = "train.transfer.architecture.mode"


def chosen(n: int, edge: int) -> dict[str, Any]:
    """The choices for so many training images of this edge in pixels."""
    found: Any = SimpleNamespace(
        counts=lambda _split: {"cats": n - n // 3, "dogs": n // 3},
        chosen=SimpleNamespace(form=SimpleNamespace(size=(edge, edge + 8))),
    )
    return {choice.key: choice.value for choice in candidates(found, presets.read("folder", root=ROOT))}


@pytest.mark.parametrize(
    ("n", "edge", "expected"),
    [
        (1999, 64, {"candidates": ["transfer"], "tune.fraction": 1.0}),
        (2000, 64, {"candidates": ["cnn", "transfer"]}),
        (1999, 63, {"candidates": ["cnn", "transfer"], MODE: "finetune", "tune.fraction": 1.0}),
        (5000, 63, {"candidates": ["cnn", "transfer"], MODE: "finetune"}),
        (5001, 63, {"candidates": ["cnn", "transfer"]}),
        (5001, 19, {"candidates": ["transfer"]}),
        (68, 20, {"candidates": ["cnn", "transfer"], MODE: "finetune", "tune.fraction": 1.0}),
        (67, 20, {"candidates": ["cnn", "transfer"], "tune.fraction": 1.0}),
        (34, 20, {"candidates": ["cnn", "transfer"], "tune.fraction": 1.0}),
        (33, 20, {"candidates": ["transfer"], "tune.fraction": 1.0}),
    ],
)
def test_number_and_size_of_the_images_decide(n: int, edge: int, expected: dict[str, Any]) -> None:
    """After a rejection of 5 % of 68 and 34 images the batches of 64 and 32 are still full."""
    assert chosen(n, edge) == expected
