"""The examples in docstrings are run. None of them needs TensorFlow or MLflow."""

import doctest
import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.command_line import SOURCE
from tests.support.onnx_model import write_model

MODULES = sorted(  # with an example
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.glob("darkroom/**/*.py")
    if "    >>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = np.array([[0.01, 0.0]] * 64)  # a bright image is a cat
    write_model(Path("model.onnx"), classes=["cat", "dog"], image_shape=(8, 8, 1), weights=weights)
    cv2.imwrite("photo.png", np.full((8, 8), 255, np.uint8))
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0
