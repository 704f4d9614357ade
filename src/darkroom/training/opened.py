"""The data of a training as the stages before left them, opened once. Needs no more packages than training itself."""

from pathlib import Path
from typing import Any, NamedTuple

from darkroom.data.arrays.dataset import Dataset
from darkroom.data.arrays.features import Features
from darkroom.data.arrays.seen import set_aside
from darkroom.training.recipe import Data, pictures, with_val


class Opened(NamedTuple):
    """The data of a training.

    Attributes:
        prepared: the dataset.
        data: its images for training and validation, the augmented copies among the former.
        features: of the same images; None where they were not asked for.
        calibration: images for validation that are not among those of data: nothing is chosen by them; None: there are
            none.
        digests: prepared_digest, and augmented_digest where there are copies.
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
        """What a model that was trained on these data says of them."""
        return {name: self.prepared.manifest[name] for name in ("dataset", "classes")} | self.prepared.form


def open_data(
    prepared: Path, augmented: Path | None, features: Path | None, *, set_aside_from: int | None = None
) -> Opened:
    """Return the data in these directories, mapped into memory.

    Args:
        prepared: what `preprocess` wrote.
        augmented: what `augment` wrote; None for the originals alone.
        features: what `embed` wrote; None where the recipe does not need it.
        set_aside_from: the number of validation images from which half of them are set aside for calibration; None:
            they never are. See recipe.set_aside_from.

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
    data = pictures(originals, copies)
    if set_aside_from is None or len(data.val_labels) < set_aside_from:
        return Opened(originals, data, computed, digests)
    aside = set_aside(originals)
    data, calibration = with_val(data, ~aside), with_val(data, aside)
    return Opened(originals, data, computed and computed.with_val(~aside), digests, calibration)
