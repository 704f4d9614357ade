"""A registered version without a registry: a directory with a tiny model and the package.py that reads it."""

import shutil
from pathlib import Path

import numpy as np

from darkroom.deployable import package
from darkroom.files.writing import sha256_of
from darkroom.registry.snapshot import IMPORTED_FILES, MODEL_FILE, PACKAGE_FILE, Version
from tests.support.onnx_model import write_model

CLASSES = ["dark", "light"]


def write_version(
    folder: Path,
    *,
    number: str = "3",
    shape: tuple[int, int, int] = (8, 8, 1),
    abstain_below: float | None = None,
    strangeness: np.ndarray | None = None,
    scale: dict[str, list[float]] | None = None,
    listed_up_to: float | None = None,
) -> Version:
    """Write the files of a version that tells dark images from light ones, and return it.

    Args:
        strangeness: see write_model; None: the version does not tell.
        scale: of strangeness; see familiarity.scale_of.
        listed_up_to: threshold of its prediction sets; None: it has none.
    """
    told = {"unknown_below": 0.01, "familiarity": scale} if scale else {}
    sets = listed_up_to and {"coverage": 0.9, "threshold": listed_up_to, "penalty": 0.01, "free": 1}
    n_pixels = int(np.prod(shape))
    weights = np.zeros((n_pixels, 2), np.float32)
    weights[:, 1] = 0.05 / n_pixels
    weights[-1, 0] = 0.05  # the last pixel speaks against: the answer is no function of the brightness alone
    write_model(
        folder / MODEL_FILE,
        classes=CLASSES,
        image_shape=shape,
        weights=weights,
        metadata={"abstain_below": abstain_below, "sets": sets, **told},
        strangeness=strangeness,
    )
    (folder / PACKAGE_FILE).parent.mkdir(exist_ok=True)
    for file in (PACKAGE_FILE, *IMPORTED_FILES):
        shutil.copy(Path(package.__file__).with_name(Path(file).name), folder / file)
    tags = {f"sha256/{file}": sha256_of(folder / file) for file in (MODEL_FILE, PACKAGE_FILE, *IMPORTED_FILES)}
    return Version("shades", number, None, str(folder), tags)
