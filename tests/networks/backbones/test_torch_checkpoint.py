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
NO_PROTOCOL = pickle.dumps(MAGIC, protocol=2)


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
    monkeypatch.setitem(sys.modules, "torch._utils", utils)  # type: ignore[arg-type]
    torch = SimpleNamespace(FloatStorage=FloatStorage, LongStorage=LongStorage, _utils=utils)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]


def checkpoint(path: Path, state: Any, *, magic: int = MAGIC) -> Path:
    """Write a state dict of Tensors, or anything else in its place."""
    file = io.BytesIO()
    for value in (magic, PROTOCOL, SYSTEM):
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
def test_a_file_that_wants_to_run_something_is_refused_by_its_name(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    message = r"a.pth: it asks for posix.system, which may run code; expected nothing but tensors"
    for before in (b"", HEAD):
        path.write_bytes(before + pickle.dumps(Runs(os.system, f"touch {trace}"), protocol=protocol))
        with pytest.raises(DataError, match=message):
            read_checkpoint(path)
    assert not trace.exists()


def test_a_file_that_asks_for_a_harmless_name_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it asks for pathlib.PosixPath"):
        read_checkpoint(checkpoint(tmp_path / "a.pth", {"a": Path("x")}))


def test_a_state_cannot_change_the_reader(tmp_path: Path) -> None:
    names = b"ccollections\nOrderedDict\n"
    (tmp_path / "a.pth").write_bytes(HEAD + names + b"(dVx\nI1\nsb.")  # BUILD on what stands for the class itself
    with pytest.raises(DataError, match="a.pth: the checkpoint is damaged or cut off"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_file_that_is_cut_off_anywhere_says_so(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.pth", OrderedDict(a=Tensor("1", np.ones(20, np.float32))))
    whole = path.read_bytes()
    for n in (20, 60, 200, len(whole) - 60, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(DataError, match="a.pth: the checkpoint is damaged or cut off"):
            read_checkpoint(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match="1 bytes follow the last storage"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "this is no PyTorch checkpoint: it does not begin with PyTorch's magic number"),
        (b"\x89HDF\r\n", "this is no PyTorch checkpoint"),
        (pickle.dumps(5, protocol=2), "this is no PyTorch checkpoint"),
        (b"PK\x03\x04", "a checkpoint in the zip format; expected the legacy one: write it again with torch.save"),
        (pickle.dumps(MAGIC, protocol=2) + pickle.dumps(3, protocol=2), "protocol 3 of PyTorch's legacy format"),
    ],
)
def test_another_file_is_named_as_such(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(DataError, match=f"a.pth: {message}"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (5, 5), "strides": (5, 1)}, "tensor a reaches beyond its storage"),
        ({"offset": 10}, "tensor a reaches beyond its storage"),
        ({"shape": (1 << 30,), "strides": (0,)}, "tensor a reaches beyond its storage"),
        ({"strides": (-1,)}, "a tensor is not described by a storage and whole numbers"),
        ({"shape": (1 << 8_000_000,) * 9}, "a tensor is not described by a storage and whole numbers"),  # takes hours
        ({"shape": (1,) * 65, "strides": (1,) * 65}, "a tensor has more than 64 dimensions"),
        ({"n": 1 << 50}, "storage 1 ends after 80 of"),
    ],
)
def test_a_tensor_never_reaches_beyond_what_the_file_holds(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = checkpoint(tmp_path / "a.pth", OrderedDict(a=Tensor("1", np.ones(20, np.float32), **changes)))
    with pytest.raises(DataError, match=message):
        read_checkpoint(path)


def test_a_pickle_cannot_reserve_memory_by_a_number(tmp_path: Path) -> None:
    bomb = b"\x80\x02K\x01r\xff\xff\xff\x7f."  # LONG_BINPUT at index 2,147,483,647
    (tmp_path / "a.pth").write_bytes(pickle.dumps(MAGIC, protocol=2) + bomb)
    with pytest.raises(DataError, match="memo index 2147483647"):
        read_checkpoint(tmp_path / "a.pth")


def test_tensors_are_views_of_what_was_read(tmp_path: Path) -> None:
    """Else a small file with many tensors on one storage would fill the memory."""
    values = Tensor("1", np.arange(20, dtype=np.float32))
    read = read_checkpoint(checkpoint(tmp_path / "a.pth", OrderedDict(a=values)))["a"]
    assert read.base is not None
    assert not read.flags.writeable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # To hash a tuple recurses in C without a limit: the process would die without a word.
        (HEAD + b"})" + b"\x85" * 400_000 + b"K\x01s.", "more than 40,000 tuples"),
        (NO_PROTOCOL + b"]" * 100_000 + b"a" * 99_999 + b".", "maximum recursion depth exceeded"),
        (HEAD + b"}." + b"]" * 100_000 + b"a" * 99_999 + b".", "the list of storages is not that of the tensors"),
    ],
)
def test_nesting_does_not_break_the_reader(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(DataError, match=f"a.pth: the checkpoint is damaged or cut off .{message}"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_message_stays_one_short_line_whatever_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(HEAD + b"c\x1b[2Jos\nsystem\n.")
    with pytest.raises(DataError, match=r"it asks for \\x1b\[2Jos.system, which may run code"):
        read_checkpoint(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(NO_PROTOCOL + pickle.dumps("x" * 100_000, protocol=2))
    with pytest.raises(DataError, match=r"protocol 'xxx.*xxx\.\.\.$") as caught:
        read_checkpoint(tmp_path / "a.pth")
    assert len(str(caught.value)) < 400


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    nested = OrderedDict(state_dict=OrderedDict(), epoch=3)
    with pytest.raises(DataError, match="expected a state dict: names and tensors, nothing nested"):
        read_checkpoint(checkpoint(tmp_path / "a.pth", nested))
