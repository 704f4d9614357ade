import logging
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import DarkroomError
from darkroom.networks.runtime.onnx_export import export_onnx


class Optimized:
    """A model whose export warns as tf2onnx does, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure

    def export(self, _path: Path, **_: object) -> None:
        logging.getLogger("tf2onnx.optimizer").warning("Failed to apply optimize_transpose", exc_info=True)
        logging.getLogger("tf2onnx.tfonnx").error("Tensorflow op [X: Y] is not supported")
        if self.failure:
            raise self.failure


def test_an_optimization_left_out_is_not_told_and_what_fails_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole: Any = Optimized()
    failing: Any = Optimized(DarkroomError("no form in ONNX"))
    with caplog.at_level(logging.WARNING):
        export_onnx(whole, tmp_path / "a.onnx")
        with pytest.raises(DarkroomError, match="no form in ONNX"):
            export_onnx(failing, tmp_path / "a.onnx")
        assert [record.name for record in caplog.records] == ["tf2onnx.tfonnx"] * 2
        logging.getLogger("tf2onnx.optimizer").warning("later")
    assert caplog.records[-1].message == "later"
