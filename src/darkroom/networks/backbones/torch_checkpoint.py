"""Read the tensors of a PyTorch checkpoint whose checksum is in weights.yaml, without PyTorch. Users' are refused.

The format is that of PyTorch before version 1.6: a sequence of pickles (magic number, protocol, facts about the
machine, the tensors by name, the keys of their storages), then for each storage a count and its raw values. A pickle
may call any function by name; here the names that tensors need are replaced by stand-ins, and all others are refused.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darkroom.errors import DataError
from darkroom.project.text import first_line

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
# Exceptions of unpickling and unpacking invalid bytes.
BROKEN = (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError)


class _Storage(NamedTuple):
    key: str
    dtype: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Entries(dict[str, _Tensor]):
    """Stands for an OrderedDict; ignores the versions of modules that PyTorch attaches as state."""

    def __setstate__(self, state: object) -> None:
        pass


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: object) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Allows only the names that tensors need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Entries
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"it references {module}.{name}, which may run code")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(key, dtype)


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict by name.

    Raises:
        DataError: the file is not such a checkpoint, or names anything other than tensors.
    """
    stream = io.BytesIO(path.read_bytes())
    try:
        magic, protocol = (_Unpickler(stream).load() for _ in range(2))
        if (magic, protocol) != (MAGIC, PROTOCOL):
            raise ValueError("it does not begin with PyTorch's magic number and protocol")
        _, found, keys = (_Unpickler(stream).load() for _ in range(3))
        dtypes = dict(tensor.storage for tensor in found.values())
        values = {}
        for key in keys:
            dtype, n = np.dtype(dtypes[key]), int.from_bytes(stream.read(8), "little")
            values[key] = np.frombuffer(stream.read(n * dtype.itemsize), dtype, count=n)
        return {name: _array(tensor, values[tensor.storage.key]) for name, tensor in found.items()}
    except BROKEN as error:
        raise DataError(
            f"{path.name} is not a PyTorch checkpoint from before version 1.6: {first_line(error)}"
        ) from None


def _array(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    strides = [stride * values.itemsize for stride in tensor.strides]
    return np.ndarray(tensor.shape, values.dtype, values, offset=tensor.offset * values.itemsize, strides=strides)
