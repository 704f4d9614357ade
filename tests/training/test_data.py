"""A fraction of the data of a training: which images it has, and that it is the same for a seed."""

import numpy as np

from darkroom.training.data import Data, part

RNG = np.random.default_rng(0)
IMAGES, VAL_IMAGES = (RNG.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8) for n in (40, 9))
VAL_LABELS, CLASSES = np.arange(9) % 3, ["ant", "bee", "cow"]


def test_a_part_has_its_share_of_every_class_and_all_of_val() -> None:
    data = Data(IMAGES, np.repeat([0, 1, 2], [30, 8, 2]), VAL_IMAGES, VAL_LABELS, CLASSES)
    smaller = part(data, 0.25, seed=7)
    assert np.bincount(smaller.labels).tolist() == [8, 2, 1]
    assert len(smaller.images) == 11
    assert smaller.val_images is data.val_images
    rows = [int(np.flatnonzero((data.images == image).all((1, 2, 3)))[0]) for image in smaller.images[np.arange(11)]]
    assert data.labels[rows].tolist() == smaller.labels.tolist()
    again, other = (part(data, 0.25, seed=seed).images[np.arange(11)] for seed in (7, 8))
    np.testing.assert_array_equal(smaller.images[np.arange(11)], again)
    assert (again != other).any()
    assert part(data, 1.0, seed=7) is data


def test_a_part_of_features_is_one_of_vectors() -> None:
    vectors, labels = np.arange(200, dtype=np.float32).reshape(40, 5), np.arange(40) % 3
    smaller = part(Data(vectors, labels, vectors[:9], VAL_LABELS, CLASSES), 0.5, seed=7)
    chosen = smaller.images[np.arange(len(smaller.labels))]
    assert chosen.dtype == np.float32
    np.testing.assert_array_equal(labels[(chosen[:, 0] / 5).astype(int)], smaller.labels)
