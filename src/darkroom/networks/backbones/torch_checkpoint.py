"""Read tensors from a PyTorch checkpoint without PyTorch, and without running anything that the file asks for.

Only the format that PyTorch wrote before version 1.6 is known: a row of pickles (magic number, protocol, facts about
the machine, the tensors by name, the keys of their storages), then for each storage a count and its raw values. A
pickle may name any function to be called; here the five names that tensors need have stand-ins, and every other one is
refused by name.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darkroom.errors import DataError
from darkroom.project.text import escaped

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
LARGEST_FILE = 4_000_000_000  # bytes; it is held in memory
LARGEST_PICKLE = 16_000_000  # bytes; names and shapes of 100,000 tensors
MOST_TUPLES = 40_000  # four for each tensor; twice as many inside each other exhaust the stack when one is hashed
MOST_DIMENSIONS = 64  # of numpy
LONGEST_MESSAGE = 300  # characters
DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "ByteStorage": "<u1",
    "CharStorage": "<i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
}


class _Storage(NamedTuple):
    key: str
    dtype: str
    n: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Entries(dict[Any, Any]):
    """Stands for an OrderedDict; versions of modules, which PyTorch attaches to it as state, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


# Instances without attributes, not classes or functions: a pickle can set attributes of what it gets hold of.
class _MakeEntries:
    __slots__ = ()

    def __call__(self) -> _Entries:
        return _Entries()


class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: object, offset: object, shape: object, strides: object, *_: object) -> _Tensor:
        numbers = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
        # Bounded, because to multiply numbers of a million digits takes hours.
        if not isinstance(storage, _Storage) or not all(type(n) is int and 0 <= n <= LARGEST_FILE for n in numbers):
            raise ValueError("a tensor is not described by a storage and whole numbers")
        if len(numbers) > 1 + 2 * MOST_DIMENSIONS:
            raise ValueError(f"a tensor has more than {MOST_DIMENSIONS} dimensions")
        return _Tensor(storage, numbers[0], tuple(shape), tuple(strides))  # type: ignore[arg-type]


class _Unpickler(pickle.Unpickler):
    """Knows the names that tensors need, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _MakeEntries()
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise DataError(
            f"it asks for {module}.{name}, which may run code; expected nothing but tensors of floats or integers"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, n, view = pid
        if kind != "storage" or dtype not in DTYPES.values() or view is not None:
            raise ValueError("a storage is not described as PyTorch does")
        if not isinstance(key, str) or type(n) is not int or n < 0:
            raise ValueError("a storage has no key and size")
        return _Storage(key, dtype, n)


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict by name, read-only arrays; those on one storage share its memory.

    Args:
        path: a file that torch.save wrote in the legacy format, such as `.pth` files of before August 2020.

    Raises:
        DataError: another format, a damaged file, or one that asks for anything but tensors; one line.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataError(f"{size:,} bytes, expected at most {LARGEST_FILE:,}")
        data = path.read_bytes()
        if data.startswith(b"PK"):
            raise DataError(
                "a checkpoint in the zip format; expected the legacy one: write it again with "
                "torch.save(..., _use_new_zipfile_serialization=False), or convert it to .weights.h5"
            )
        return _tensors(io.BytesIO(data), size)
    except DataError as error:
        raise DataError(f"{path.name}: {_shown(error)}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except _BROKEN as error:
        raise DataError(f"{path.name}: the checkpoint is damaged or cut off ({_shown(error)})") from None


# What unpickling and unpacking raise on bytes that make no sense; RecursionError on lists inside lists.
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError
)  # fmt: skip


def _shown(error: Exception) -> str:
    """Return what an error says, one line of bounded length: names and values in it come from the file."""
    text = escaped(str(error))
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


def _tensors(stream: io.BytesIO, size: int) -> dict[str, np.ndarray]:
    try:
        magic = _unpickled(stream)
    except _BROKEN:
        magic = None
    if magic != MAGIC:
        raise DataError("this is no PyTorch checkpoint: it does not begin with PyTorch's magic number")
    if (protocol := _unpickled(stream)) != PROTOCOL:
        raise DataError(f"protocol {protocol!r} of PyTorch's legacy format, expected {PROTOCOL}")
    if _unpickled(stream)["little_endian"] is not True:
        raise DataError("the values are big-endian, expected little-endian")
    found = _unpickled(stream)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in found.items()
    ):
        raise DataError("expected a state dict: names and tensors, nothing nested")
    values = _storages(stream, keys=_unpickled(stream), known={tensor.storage for tensor in found.values()}, size=size)
    return {name: _array(name, tensor, values[tensor.storage.key]) for name, tensor in found.items()}


def _unpickled(stream: io.BytesIO) -> Any:
    """Return what the next pickle of the stream holds."""
    start, n_tuples = stream.tell(), 0
    for opcode, argument, position in pickletools.genops(stream):
        n_tuples += "TUPLE" in opcode.name
        if n_tuples > MOST_TUPLES:
            raise ValueError(f"more than {MOST_TUPLES:,} tuples")
        # A memo index of two thousand million would make the unpickler reserve that many places.
        if opcode.name in ("LONG_BINPUT", "PUT") and (argument or 0) > LARGEST_PICKLE:
            raise ValueError(f"memo index {argument}")
        if (position or 0) - start > LARGEST_PICKLE:
            raise ValueError(f"a pickle is larger than {LARGEST_PICKLE:,} bytes")
    end = stream.tell()
    return _Unpickler(io.BytesIO(stream.getbuffer()[start:end])).load()


def _storages(stream: io.BytesIO, *, keys: Sequence[str], known: set[_Storage], size: int) -> dict[str, np.ndarray]:
    declared = {storage.key: storage for storage in known}
    if len(declared) != len(known) or sorted(keys) != sorted(declared):
        raise ValueError("the list of storages is not that of the tensors")
    values = {}
    for key in keys:
        dtype, n = np.dtype(declared[key].dtype), declared[key].n
        if int.from_bytes(stream.read(8), "little") != n:
            raise ValueError(f"storage {key} does not hold the {n} values that are declared")
        if n * dtype.itemsize > size - stream.tell():
            raise EOFError(f"storage {key} ends after {size - stream.tell()} of {n * dtype.itemsize} bytes")
        values[key] = np.frombuffer(stream.read(n * dtype.itemsize), dtype)
    if stream.tell() != size:
        raise ValueError(f"{size - stream.tell()} bytes follow the last storage")
    return values


def _array(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    n = math.prod(tensor.shape)
    last = tensor.offset + sum((edge - 1) * stride for edge, stride in zip(tensor.shape, tensor.strides, strict=True))
    if n > len(values) or (n and last >= len(values)):
        raise ValueError(f"tensor {name} reaches beyond its storage")
    strides = [stride * values.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
    # Not copied: many tensors on one storage would need many times the memory of the file.
    return view.astype(values.dtype.newbyteorder("="), copy=False)
