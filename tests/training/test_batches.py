from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.data.arrays.selection import Selection
from darkroom.errors import ParamsError, TrainingError
from darkroom.training.batches import EpochBatches, OneBatch, PlainBatches, weighted
from darkroom.training.class_weights import class_weights
from darkroom.training.variation import Variation, draw, mix

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 6, 5, 1), dtype=np.uint8)
LABELS = RNG.integers(0, 3, 50)


def epoch(**changes: Any) -> EpochBatches:
    settings: dict[str, Any] = {"n_classes": 3, "batch_size": 8, "seed": 1, "epoch": 0}
    return EpochBatches(IMAGES, LABELS, **{**settings, **changes})


def draws_of(variation: Variation, *, n_images: int = 400, epoch: int = 0, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng([seed, epoch])
    return draw(variation, n_images=n_images, image_size=(12, 10), seed=seed, epoch=epoch, rng=rng)


def test_a_selection_reads_several_arrays_as_one(tmp_path: Path) -> None:
    np.save(tmp_path / "more.npy", IMAGES[::-1])
    stored = np.load(tmp_path / "more.npy", mmap_mode="r")
    rows, more = np.array([3, 1, 4]), np.array([0, 49, 7, 9])
    selection = Selection([(IMAGES, rows), (stored, more)])
    whole = np.concatenate([IMAGES[rows], IMAGES[::-1][more]])
    chosen = np.array([6, 0, 3, 2, 5, 1, 4])
    assert selection.shape == (7, 6, 5, 1)
    assert len(selection) == 7
    np.testing.assert_array_equal(selection[chosen], whole[chosen])


def test_an_empty_part_of_a_selection_is_no_problem() -> None:
    selection = Selection([(IMAGES, np.arange(4)), (IMAGES[:0], np.arange(0))])
    np.testing.assert_array_equal(selection[np.array([2, 1])], IMAGES[[2, 1]])


def test_an_epoch_shows_every_image_at_most_once() -> None:
    batches = epoch()
    seen = [np.asarray(batches[step][0]) for step in range(len(batches))]
    assert len(batches) == 6
    assert len(np.unique(np.concatenate(seen).reshape(48, -1), axis=0)) == 48
    pictures, one_hot = batches[2]
    for picture, row in zip(pictures, one_hot, strict=True):
        position = next(i for i in range(50) if (IMAGES[i] == picture).all())
        assert row.tolist() == np.eye(3)[LABELS[position]].tolist()


def test_seed_and_epoch_decide_the_batches() -> None:
    everything = Variation(shift=2, flip="random", cutout=3, erasing=0.5, mixup=0.4, cutmix=1.0)
    first, again, later = (epoch(variation=everything, epoch=number) for number in (0, 0, 1))
    for step in range(6):
        (pictures, draws), labels = first[step]
        (same_pictures, same_draws), same_labels = again[step]
        np.testing.assert_array_equal(pictures, same_pictures)
        np.testing.assert_array_equal(draws, same_draws)
        np.testing.assert_array_equal(labels, same_labels)
    assert (first.order != later.order).any()
    assert first.draws is not None
    assert (first.draws != later.draws).any()


def test_draws_stay_in_range_and_take_no_room_when_off() -> None:
    variation = Variation(shift=2, flip="random", cutout=3, erasing=0.6)
    draws, columns = draws_of(variation), variation.columns
    assert draws.shape == (400, 9)
    assert set(draws[:, columns["shift"]].ravel()) == {-2, -1, 0, 1, 2}
    assert set(draws[:, columns["flip"]].ravel()) == {0, 1}
    assert draws[:, columns["cutout"]].max(axis=0).tolist() == [9, 7]
    assert Variation().columns == {}
    assert Variation(mixup=0.2).n_columns == 0
    assert draws_of(Variation(flip="random", erasing=0.1)).shape == (400, 5)


def test_erased_rectangles_have_the_area_of_the_paper() -> None:
    variation = Variation(erasing=0.6)
    top, left, height, width = draws_of(variation, n_images=4000).T
    erased = height > 0
    assert abs(erased.mean() - 0.6) < 0.03
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 12).all()
    assert (left + width <= 10).all()
    area = (height * width)[erased] / 120
    assert area.max() < 0.4
    assert abs(area.mean() - 0.175) < 0.02


def test_alternating_flips_change_every_epoch() -> None:
    first, second, third = (draws_of(Variation(flip="alternating"), epoch=number) for number in range(3))
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(first, 1 - second)
    assert 0.4 < first.mean() < 0.6
    assert (first != draws_of(Variation(flip="alternating"), seed=2)).any()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_pictures_and_labels_have_the_same_shares(kind: str) -> None:
    shades = np.arange(0, 250, 25, dtype=np.uint8)
    pictures = np.tile(shades[:, None, None, None], (1, 12, 10, 1)).copy()
    alphas = {"mixup": 0.0, "cutmix": 0.0, kind: 1.0}
    shares = []
    for seed in range(20):
        mixed, labels = mix(pictures.copy(), np.eye(10, dtype=np.float32), **alphas, rng=np.random.default_rng(seed))
        assert mixed.dtype == np.uint8
        assert mixed.shape == pictures.shape
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), labels @ shades.astype(float), atol=0.51)
        shares.append(labels.max())
        if kind == "cutmix":
            assert set(np.unique(mixed)) <= set(shades.tolist()), "nothing is blended"
    assert np.ptp(shares) > 0.2


def test_one_of_mixup_and_cutmix_is_drawn_per_batch() -> None:
    pictures = np.tile(np.arange(8, dtype=np.uint8)[:, None, None, None] * 30, (1, 6, 6, 1))
    blended = []
    for seed in range(40):
        mixed, _ = mix(pictures.copy(), np.eye(8, dtype=np.float32), mixup=1, cutmix=1, rng=np.random.default_rng(seed))
        blended.append(bool(set(np.unique(mixed)) - set(np.unique(pictures))))
    assert 5 < sum(blended) < 35


def test_class_weights_are_one_on_average() -> None:
    labels, classes = np.repeat([0, 1, 2], [900, 90, 10]), ["a", "b", "c"]
    settings: dict[str, Any] = {"balanced": "balanced", "effective": "effective", "own": {"c": 5.0, "a": 0.5}}
    weights = {name: class_weights(setting, labels=labels, classes=classes) for name, setting in settings.items()}
    for found in weights.values():
        assert found.dtype == np.float32
        assert found[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(weights["balanced"] / weights["balanced"][0], [1, 10, 90], rtol=1e-5)
    np.testing.assert_allclose(weights["own"] / weights["own"][1], [0.5, 1, 5], rtol=1e-5)
    effective = (1 - 0.999 ** np.array([900, 90, 10])) / (1 - 0.999)
    np.testing.assert_allclose(weights["effective"] / weights["effective"][0], effective[0] / effective, rtol=1e-4)
    assert class_weights("none", labels=labels, classes=classes) is None
    np.testing.assert_array_equal(class_weights("auto", labels=labels, classes=classes), weights["balanced"])
    assert class_weights("auto", labels=np.arange(30) % 3, classes=classes) is None


def test_class_weights_that_cannot_be_are_refused() -> None:
    labels = np.zeros(4, int)
    with pytest.raises(ParamsError, match="weight for an unknown class 'dgo'; classes: cat, dog"):
        class_weights({"dgo": 2.0}, labels=labels, classes=["cat", "dog"])
    with pytest.raises(ParamsError, match="class_weights is 0 for every training image"):
        class_weights({"cat": 0.0}, labels=labels, classes=["cat", "dog"])


def test_an_unmixed_image_has_the_weight_of_its_class() -> None:
    weights = np.array([0.5, 1, 2], np.float32)
    _, plain = epoch()[1]
    _, labels, found = epoch(weights=weights)[1]
    np.testing.assert_array_equal(labels, plain)
    np.testing.assert_array_equal(found, weights[labels.argmax(axis=1)])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_each_class_of_a_mixed_image_keeps_its_weight(kind: str) -> None:
    weights = np.array([0.5, 1, 2], np.float32)
    variation = Variation(mixup=float(kind == "mixup"), cutmix=float(kind == "cutmix"))
    for step in range(6):
        _, mixed = epoch(variation=variation)[step]
        _, labels, found = epoch(variation=variation, weights=weights)[step]
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(labels * found[:, None], mixed * weights, rtol=1e-6)


def test_a_class_of_weight_0_leaves_no_trace_and_no_nan() -> None:
    labels, found = weighted(np.array([[1, 0], [0.25, 0.75]], np.float32), np.array([0, 2], np.float32))
    assert labels.tolist() == [[1, 0], [0, 1]]
    assert found.tolist() == [0, 1.5]


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(TrainingError, match="50 training images do not fill one batch of 64; lower batch_size"):
        epoch(batch_size=64)


def test_an_epoch_can_be_cut_short_or_hold_one_batch_only() -> None:
    assert len(epoch(max_steps=2)) == 2
    assert len(epoch(max_steps=200)) == 6
    repeated = OneBatch(epoch(max_steps=4))
    assert len(repeated) == 4
    np.testing.assert_array_equal(repeated[0][0], repeated[3][0])


def test_plain_batches_cover_everything_in_order() -> None:
    batches = PlainBatches(IMAGES, LABELS, n_classes=3, batch_size=20)
    np.testing.assert_array_equal(np.concatenate([batches[step][0] for step in range(len(batches))]), IMAGES)
    np.testing.assert_array_equal(np.concatenate([batches[step][1] for step in range(3)]).argmax(1), LABELS)
