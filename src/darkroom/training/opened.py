"""Open the data of a training. Needs no more packages than training itself."""

from pathlib import Path
from typing import Any, NamedTuple

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.data.arrays.seen import one_of_each_group, set_aside
from darkroom.training.data import Data, pictures, with_val


class Opened(NamedTuple):
    """The data of a training.

    Attributes:
        prepared: the dataset.
        data: its images for training, including augmented copies, and for validation.
        features: of the same images; None if they were not opened.
        calibration: validation images that are set aside from data and used for no choice in the training; None if
            there are none.
        digests: prepared_digest, and augmented_digest if there are copies.
    """

    prepared: Dataset
    data: Data
    features: Features | None
    digests: dict[str, str]
    calibration: Data | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        return self.prepared.image_shape

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of a model trained on these data."""
        return {name: self.prepared.manifest[name] for name in ("dataset", "classes")} | self.prepared.form


def open_data(
    prepared: Path, augmented: Path | None, features: Path | None, *, set_aside_from: int | None = None
) -> Opened:
    """Return the data in these directories, memory-mapped.

    Args:
        prepared: output of `preprocess`.
        augmented: output of `augment`; None: only the originals.
        features: output of `embed`; None if the recipe does not need it.
        set_aside_from: minimum number of validation images for setting half of them aside for calibration; None: never.
            See recipe.set_aside_from. An official validation set, which no fold mixes with others, may have fewer.

    Raises:
        DataError: a part is missing or damaged, or the features belong to other images.
    """
    originals = Dataset.open(prepared)
    copies = None if augmented is None else Dataset.open(augmented)
    digests = {"prepared_digest": str(originals.manifest["digest"])}
    if copies is not None:
        digests["augmented_digest"] = str(copies.manifest["digest"])
    computed = None if features is None else Features.open(features)
    if computed is not None:
        computed.check_origin(**digests)
    data = pictures(originals, copies)
    is_enough = set_aside_from is not None and (len(data.val_labels) >= set_aside_from or data.official_val)
    if not is_enough or not (aside := set_aside(originals)).any():
        return Opened(originals, data, computed, digests)
    # Guarantees need independent images.
    data, calibration = with_val(data, ~aside), with_val(data, aside & one_of_each_group(originals))
    return Opened(originals, data, computed and computed.with_val(~aside), digests, calibration)
