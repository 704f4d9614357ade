"""A dataset of two classes that a network learns in seconds: dark and light noise."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from darkroom.data.arrays.dataset_writer import DatasetWriter


def write_shades(directory: Path, *, splits: list[str], shape: tuple[int, int, int]) -> str:
    """Write one image per entry of `splits` and return the digest of the dataset."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, len(splits))
    images = (rng.integers(0, 60, (len(splits), *shape)) + 120 * labels[:, None, None, None]).astype(np.uint8)
    with DatasetWriter(directory, image_shape=shape, shard_bytes=1 << 14) as writer:
        rows = writer.append(images)
        names = [["dark", "light"][label] for label in labels]
        ids = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        index = pd.DataFrame({"row": rows, "id": ids, "group": ids, "label": names, "split": splits})
        writer.finish(index=index, manifest={"dataset": "shades", "classes": ["dark", "light"], "color": "grey"})
    return str(json.loads((directory / "manifest.json").read_text())["digest"])
