"""Files as torch.save wrote them before PyTorch 1.6, made here by hand."""

import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from darkroom.errors import DataError
from darkroom.networks.backbones.torch_checkpoint import MAGIC, PROTOCOL, read_checkpoint

SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
HEAD = b"".join(pickle.dumps(value, protocol=2) for value in (MAGIC, PROTOCOL, SYSTEM))  # what precedes the tensors


class FloatStorage:
    """Pickled as torch.FloatStorage."""


class LongStorage:
    """Pickled as torch.LongStorage."""


def _rebuild_tensor_v2() -> None:
    """Pickled as torch._utils._rebuild_tensor_v2."""


class Tensor:
    """Pickled as a call that builds a tensor on a storage."""

    def __init__(self, key: str, values: np.ndarray, **changes: Any) -> None:
        self.key, self.values = key, values
        strides = tuple(stride // values.itemsize for stride in values.strides)
        self.described = {"offset": 0, "shape": values.shape, "strides": strides, "n": values.size, **changes}

    def __reduce__(self) -> Any:
        described = [self.described[name] for name in ("offset", "shape", "strides")]
        return _rebuild_tensor_v2, (self, *described, False, OrderedDict())


class Pickler(pickle.Pickler):
    """Writes the first argument of a tensor's call as PyTorch does: by key, the values come later."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self._open: set[int] = set()

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._open:
            self._open.add(id(value))
            return None
        kind = {"f": FloatStorage, "i": LongStorage}[value.values.dtype.kind]
        return "storage", kind, value.key, "cpu", value.described["n"], None


@pytest.fixture(autouse=True)
def _torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickle find the stand-ins above under PyTorch's names while a file is written."""
    for thing, module in ((FloatStorage, "torch"), (LongStorage, "torch"), (_rebuild_tensor_v2, "torch._utils")):
        monkeypatch.setattr(thing, "__module__", module)
    utils = SimpleNamespace(_rebuild_tensor_v2=_rebuild_tensor_v2)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    torch = SimpleNamespace(FloatStorage=FloatStorage, LongStorage=LongStorage, _utils=utils)
    monkeypatch.setitem(sys.modules, "torch", torch)


def checkpoint(path: Path, state: Any) -> Path:
    """Write a state dict of Tensors, or anything else in its place."""
    file = io.BytesIO()
    for value in (MAGIC, PROTOCOL, SYSTEM):
        pickle.dump(value, file, protocol=2)
    Pickler(file).dump(state)
    tensors = [value for value in state.values() if isinstance(value, Tensor)] if isinstance(state, dict) else []
    pickle.dump([tensor.key for tensor in tensors], file, protocol=2)
    for tensor in tensors:
        file.write(struct.pack("<q", tensor.described["n"]) + tensor.values.tobytes(order="A"))
    path.write_bytes(file.getvalue())
    return path


def test_tensors_come_back_with_their_names_shapes_and_values(tmp_path: Path) -> None:
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    turned = np.asfortranarray(kernel[0])  # a transposed tensor keeps its storage and turns its strides
    steps = np.array(7, np.int64)
    state = OrderedDict(kernel=Tensor("1", kernel), turned=Tensor("2", turned), steps=Tensor("3", steps))
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]  # as PyTorch adds it
    read = read_checkpoint(checkpoint(tmp_path / "a.pth", state))
    assert list(read) == ["kernel", "turned", "steps"]
    for name, expected in (("kernel", kernel), ("turned", kernel[0]), ("steps", steps)):
        np.testing.assert_array_equal(read[name], expected)
        assert read[name].dtype == expected.dtype


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_file_that_wants_to_run_something_is_refused(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    for before in (b"", HEAD):
        path.write_bytes(before + pickle.dumps(Runs(os.system, f"touch {trace}"), protocol=protocol))
        with pytest.raises(
            DataError, match="a.pth is not a PyTorch checkpoint .*: it references posix.system, which may run"
        ):
            read_checkpoint(path)
    assert not trace.exists()


def test_a_file_that_asks_for_a_harmless_name_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it references pathlib.PosixPath"):
        read_checkpoint(checkpoint(tmp_path / "a.pth", {"a": Path("x")}))


def test_a_file_that_is_cut_off_anywhere_says_so(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.pth", OrderedDict(a=Tensor("1", np.ones(20, np.float32))))
    whole = path.read_bytes()
    for n in (0, 20, 60, 200, len(whole) - 60, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(DataError, match="a.pth is not a PyTorch checkpoint from before version 1.6"):
            read_checkpoint(path)


@pytest.mark.parametrize("data", [b"\x89HDF\r\n", b"PK\x03\x04", pickle.dumps(5, protocol=2) * 2])
def test_another_file_is_named_as_such(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(DataError, match="a.pth is not a PyTorch checkpoint from before version 1.6"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("changes", [{"shape": (5, 5), "strides": (5, 1)}, {"offset": 10}])
def test_a_tensor_never_reaches_beyond_what_the_file_holds(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = checkpoint(tmp_path / "a.pth", OrderedDict(a=Tensor("1", np.ones(20, np.float32), **changes)))
    with pytest.raises(DataError, match="a.pth is not a PyTorch checkpoint"):
        read_checkpoint(path)
