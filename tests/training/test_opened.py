"""The data of a training, opened from the folders that the stages before left."""

from pathlib import Path

import pytest

from darkroom.data.arrays.features import FeaturesWriter, write_none
from darkroom.errors import DataError
from darkroom.training.opened import open_data
from tests.support.shades import write_shades


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shades(tmp_path / "prepared", splits=["train"] * 6 + ["val"] * 4, shape=(8, 8, 1))
    write_shades(tmp_path / "augmented", splits=["train"] * 3, shape=(8, 8, 1))
    return tmp_path


def test_copies_follow_the_originals_and_the_rest_stays_closed(folder: Path) -> None:
    both = open_data(folder / "prepared", folder / "augmented", None)
    alone = open_data(folder / "prepared", None, None)
    assert (len(both.data.labels), len(alone.data.labels)) == (9, 6)
    assert both.data.labels[:6].tolist() == alone.data.labels.tolist()
    assert (set(both.digests), set(alone.digests)) == ({"prepared_digest", "augmented_digest"}, {"prepared_digest"})
    assert both.features is None
    assert both.image_shape == (8, 8, 1)


def test_features_of_other_copies_are_refused(folder: Path) -> None:
    write_none(folder / "features")
    assert open_data(folder / "prepared", folder / "augmented", folder / "features").features is not None
    digests = open_data(folder / "prepared", None, None).digests | {"augmented_digest": "of others"}
    about = dict.fromkeys(("weights", "weights_origin", "weights_sha256", "image_size", "seed"))
    with FeaturesWriter(folder / "features") as writer:
        writer.finish(backbone="efficientnet-lite0", **about, **digests)
    open_data(folder / "prepared", None, folder / "features")
    with pytest.raises(DataError, match="features belong to other augmented images; run `dvc repro embed`"):
        open_data(folder / "prepared", folder / "augmented", folder / "features")
