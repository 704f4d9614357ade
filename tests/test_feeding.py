import numpy as np
import pytest

from darkroom.errors import TrainingError
from darkroom.feeding import EpochBatches, PlainBatches, Selection

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 6, 5, 1), dtype=np.uint8)
LABELS = RNG.integers(0, 3, 50)


def epoch(**changes: object) -> EpochBatches:
    arguments = {"n_classes": 3, "batch_size": 8, "seed": 1, "epoch": 0, "shift": 2, "flip": True, "cutout": 3}
    return EpochBatches(IMAGES, LABELS, **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_selection_over_two_arrays_reads_like_their_concatenation() -> None:
    rows, others = np.array([3, 1, 40]), np.array([7, 7, 0, 49])
    selection = Selection([(IMAGES, rows), (IMAGES, others)])
    whole = np.concatenate([IMAGES[rows], IMAGES[others]])
    chosen = np.array([6, 0, 3, 3, 2])
    assert selection.shape == whole.shape
    np.testing.assert_array_equal(selection[chosen], whole[chosen])


def test_an_empty_part_of_a_selection_is_no_problem() -> None:
    selection = Selection([(IMAGES, np.arange(4)), (IMAGES[:0], np.arange(0))])
    np.testing.assert_array_equal(selection[np.array([2, 1])], IMAGES[[2, 1]])


def test_an_epoch_shows_every_image_at_most_once_with_its_own_label() -> None:
    batches = epoch()
    seen = [np.asarray(batches[step][0][0]) for step in range(len(batches))]
    assert len(batches) == 6
    assert len(np.unique(np.concatenate(seen).reshape(48, -1), axis=0)) == 48
    (pictures, _), one_hot = batches[2]
    for picture, row in zip(pictures, one_hot, strict=True):
        position = next(i for i in range(50) if (IMAGES[i] == picture).all())
        assert row.tolist() == np.eye(3)[LABELS[position]].tolist()


def test_the_same_seed_and_epoch_give_the_same_batches_and_another_epoch_gives_others() -> None:
    first, again, later = epoch(), epoch(), epoch(epoch=1)
    np.testing.assert_array_equal(first.order, again.order)
    np.testing.assert_array_equal(first.draws, again.draws)
    assert (first.order != later.order).any()
    assert (first.draws != later.draws).any()


def test_draws_stay_in_their_ranges() -> None:
    draws = epoch().draws
    assert draws[:, :2].min() == -2
    assert draws[:, :2].max() == 2
    assert set(draws[:, 2]) == {0, 1}
    assert draws[:, 3].max() <= 3
    assert draws[:, 4].max() <= 2
    assert not epoch(shift=0, flip=False, cutout=0).draws.any()


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(TrainingError, match="50 training images do not fill one batch of 64; lower batch_size"):
        epoch(batch_size=64)


def test_plain_batches_cover_everything_in_order() -> None:
    batches = PlainBatches(IMAGES, LABELS, n_classes=3, batch_size=20)
    np.testing.assert_array_equal(np.concatenate([batches[step][0] for step in range(len(batches))]), IMAGES)
    np.testing.assert_array_equal(np.concatenate([batches[step][1] for step in range(3)]).argmax(1), LABELS)
