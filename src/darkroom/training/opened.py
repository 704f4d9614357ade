"""The data of a training as the stages before left them, opened once. Needs no more packages than training itself."""

from pathlib import Path
from typing import Any, NamedTuple

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.training.recipe import Data, pictures


class Opened(NamedTuple):
    """The data of a training.

    Attributes:
        prepared: the dataset.
        data: its images for training and validation, the augmented copies among the former.
        features: of the same images; None where they were not asked for.
        digests: prepared_digest, and augmented_digest where there are copies.
    """

    prepared: Dataset
    data: Data
    features: Features | None
    digests: dict[str, str]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        return self.prepared.image_shape

    @property
    def metadata(self) -> dict[str, Any]:
        """What a model that was trained on these data says of them."""
        return {name: self.prepared.manifest[name] for name in ("dataset", "classes")} | self.prepared.form


def open_data(prepared: Path, augmented: Path | None, features: Path | None) -> Opened:
    """Return the data in these directories, mapped into memory.

    Args:
        prepared: what `preprocess` wrote.
        augmented: what `augment` wrote; None for the originals alone.
        features: what `embed` wrote; None where the recipe does not need it.

    Raises:
        DataError: a part is missing or damaged, or the features are of other images.
    """
    originals = Dataset.open(prepared)
    copies = None if augmented is None else Dataset.open(augmented)
    digests = {"prepared_digest": str(originals.manifest["digest"])}
    if copies is not None:
        digests["augmented_digest"] = str(copies.manifest["digest"])
    computed = None if features is None else Features.open(features)
    if computed is not None:
        computed.check_origin(**digests)
    return Opened(originals, pictures(originals, copies), computed, digests)
