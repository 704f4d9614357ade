from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.data.preparation.completeness import check_classes
from darkroom.data.preparation.near_duplicates import near_duplicate_components
from darkroom.data.preparation.splits import Assignment, Fractions, Images, assign
from darkroom.errors import DataError

TRAIN, VAL, TEST, RECENT, UNUSED = 0, 1, 2, 3, -1


def ids_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), np.uint8)


def far_hashes(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**64, n, np.uint64)


def split(ids: np.ndarray, **changed):
    n = len(ids)
    facts: dict[str, Any] = {
        "labels": np.zeros(n, int),
        "official_test": np.zeros(n, bool),
        "official_val": np.zeros(n, bool),
        "incoming": np.zeros(n, bool),
        "hashes": far_hashes(n),
        "groups": np.full(n, -1),
    }
    settings: dict[str, Any] = {
        "near_duplicates": "group",
        "near_duplicate_bits": 4,
        "seed": 7,
        "fractions": Fractions(val=0.2, test=0.3, recent=0.4),
    }
    facts |= {name: value for name, value in changed.items() if name in facts}
    official = np.where(facts.pop("official_test"), TEST, np.where(facts.pop("official_val"), VAL, TRAIN))
    settings |= {name: value for name, value in changed.items() if name in settings}
    return assign(Images(ids, official=official.astype(np.int8), **facts), **settings)


def mark(n: int, *rows: int) -> np.ndarray:
    return np.isin(np.arange(n), rows)


def test_the_fractions_are_met():
    shares = np.bincount(split(ids_of(20_000)).splits) / 20_000
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.01)


@given(n=st.integers(3, 60), val=st.floats(0.01, 0.6), test=st.floats(0.01, 0.39), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_every_class_has_its_share_of_every_split(n, val, test, seed):
    labels = np.repeat([0, 1, 2], [n, 3, 40])
    changed = {"labels": labels, "seed": seed, "fractions": Fractions(val, test, recent=0.1)}
    splits = split(ids_of(len(labels)), **changed).splits
    for code, size in enumerate([n, 3, 40]):
        counts = np.bincount(splits[labels == code], minlength=3)
        wanted = size * np.array([1 - val - test, val, test])
        assert np.all(counts >= 1)
        if wanted.min() >= 1:
            assert np.all(np.abs(counts - wanted) <= 1 + 1e-9)


@pytest.mark.parametrize("tested", [False, True])
def test_a_validation_set_of_the_data_is_used_as_such(tested):
    n = 60
    changed = {"official_val": mark(n, *range(10)), "official_test": mark(n, *(range(50, 60) if tested else ()))}
    found = split(ids_of(n), **changed).splits
    assert np.flatnonzero(found == VAL).tolist() == list(range(10))
    assert np.count_nonzero(found == TEST) == (10 if tested else 15)  # 0.3 of the 50 others
    labels = np.repeat([0, 1], 30)  # the second class has no validation images of its own
    found = split(ids_of(n), labels=labels, **changed).splits
    assert np.flatnonzero(found[:30] == VAL).tolist() == list(range(10))
    assert np.count_nonzero(found[30:] == VAL) == (4 if tested else 6)


@pytest.mark.parametrize("near_duplicates", ["group", "drop"])
def test_no_validation_image_has_a_copy_in_train(near_duplicates):
    hashes = far_hashes(40)
    hashes[[20, 21, 22]] = hashes[[0, 0, 1]]  # copies of the validation images 0 and 1
    hashes[30] = hashes[2]  # a test image that repeats the validation image 2
    changed = {"official_val": mark(40, *range(10)), "official_test": mark(40, *range(30, 40))}
    found = split(ids_of(40), hashes=hashes, near_duplicates=near_duplicates, **changed)
    assert found.splits[[0, 1, 2, 20, 21, 22, 30]].tolist() == [VAL, VAL, UNUSED, UNUSED, UNUSED, UNUSED, TEST]
    reasons = ["near-duplicate of a test image", *["near-duplicate of a validation image"] * 3]
    assert [reason for _, _, reason in found.dropped] == reasons


@pytest.mark.parametrize(("n_classes", "n_images"), [(20, 20), (100, 30)])
@pytest.mark.parametrize("incoming", [False, True])
def test_small_classes_have_images_in_every_split(n_classes, n_images, incoming):
    labels = np.repeat(np.arange(n_classes), n_images)
    for seed in range(10):
        found = split(
            ids_of(len(labels), seed=seed),
            labels=labels,
            incoming=np.full(len(labels), incoming),
            fractions=Fractions(val=0.1, test=0.15, recent=0.2),
            near_duplicates="keep",
        )
        check(found.splits, labels, classes=list(map(str, range(n_classes))))


@given(sizes=st.lists(st.integers(1, 40), min_size=3, max_size=25), seed=st.integers(0, 99), official=st.booleans())
@settings(max_examples=200, deadline=None)
def test_groups_stay_whole_and_leave_no_split_empty(sizes, seed, official):
    n = sum(sizes)
    hashes = np.repeat(far_hashes(len(sizes)), sizes)
    changed = {"labels": np.zeros(n + 1, int), "official_test": mark(n + 1, n if official else -1)}
    found = split(ids_of(n + 1), hashes=np.append(hashes, ~hashes[0]), seed=seed, **changed)
    of_groups = [np.unique(part) for part in np.split(found.splits[:n], np.cumsum(sizes)[:-1])]
    assert all(len(sides) == 1 for sides in of_groups)
    counts = np.bincount(found.splits, minlength=3)
    assert np.all(counts >= 1)
    for code, wanted in ((VAL, 0.2 * n), (TEST, 1 if official else 0.3 * n)):
        assert abs(counts[code] - wanted) <= max(sizes) + 1


def test_a_rare_class_that_resembles_another_has_every_split():
    hashes = far_hashes(23)
    hashes[20:] = hashes[:3]
    for seed in range(10):
        splits = split(ids_of(23), hashes=hashes, labels=np.repeat([0, 1], [20, 3]), seed=seed).splits
        assert set(splits[20:].tolist()) == {TRAIN, VAL, TEST}
        assert np.array_equal(splits[20:], splits[:3])


@given(
    n=st.integers(0, 50),
    val=st.floats(0.01, 0.6),
    test=st.floats(0.01, 0.39),
    official=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_one_more_image_of_the_data_moves_two_at_most(n, val, test, official, seed):
    labels = np.append(np.repeat([0, 1, 1], [n, 30, 2]), 0)
    changed = {"seed": seed, "fractions": Fractions(val, test, recent=0.1), "near_duplicates": "keep"}
    facts = {"labels": labels, "official_test": mark(len(labels), *(range(n + 30, n + 32) if official else ()))}
    ids = ids_of(len(labels))
    after = split(ids, **facts, **changed).splits[:-1]
    before = split(ids[:-1], **{name: array[:-1] for name, array in facts.items()}, **changed).splits
    assert not np.any((after != before) & (labels[:-1] == 1))
    assert np.count_nonzero(after != before) <= (1 if official else 2)


@pytest.mark.parametrize("official", [False, True])
def test_an_incoming_image_keeps_its_split_whatever_comes(official):
    ids, hashes, incoming = ids_of(1000), far_hashes(1000), np.arange(1000) >= 100
    labels = np.random.default_rng(3).integers(0, 3, 1000)
    labels[:100] //= 2  # class 2 comes with the incoming images
    facts = {
        "labels": labels,
        "hashes": hashes,
        "incoming": incoming,
        "official_test": mark(1000, *range(9 * official)),
    }
    splits = split(ids, **facts).splits
    assert set(splits[incoming].tolist()) == {TRAIN, VAL, RECENT if official else TEST}
    kept = np.append(np.arange(100), 100 + np.random.default_rng(2).permutation(900)[:400])
    fewer = split(ids[kept], **{name: array[kept] for name, array in facts.items()}).splits
    assert np.array_equal(fewer, splits[kept])


@given(n=st.integers(3, 40), seed=st.integers(0, 999), official=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_new_class_gets_every_split_and_moves_only_for_that(n, seed, official):
    held = RECENT if official else TEST
    ids, n_old = ids_of(n + 40), 40
    facts: dict[str, Any] = {"incoming": np.arange(n + 40) >= n_old, "seed": seed, "near_duplicates": "keep"}
    facts["official_test"] = mark(n + 40, *(range(2) if official else ()))
    by_number = split(ids, **facts).splits[n_old:]  # of a class that the dataset has in every split
    found = split(ids, labels=facts["incoming"].astype(int), **facts).splits[n_old:]
    assert set(found.tolist()) == {TRAIN, VAL, held}
    assert np.array_equal(found, by_number) == (len(set(by_number.tolist())) == 3)
    assert np.count_nonzero(found != by_number) == 3 - len(set(by_number.tolist()))


@given(n_old=st.integers(0, 4), n_new=st.integers(0, 6), n_test=st.integers(0, 2), seed=st.integers(0, 999))
@settings(max_examples=300, deadline=None)
def test_incoming_images_complete_a_class_that_lacks_some(n_old, n_new, n_test, seed):
    n = 8 + n_old + n_new + n_test  # eight of another class, two of them official test images where there are some
    labels, incoming = np.repeat([1, 0], [8, n - 8]), np.arange(n) >= n - n_new
    official = mark(n, *(range(6, 8 + n_test) if n_test else ()))
    facts, both = {"labels": labels, "official_test": official, "incoming": incoming}, {"seed": seed}
    splits = split(ids_of(n), **facts, **both).splits
    of_old = split(ids_of(n)[~incoming], **{name: array[~incoming] for name, array in facts.items()}, **both).splits
    assert np.array_equal(splits[~incoming], of_old)
    needed = {TRAIN, VAL} if n_test else {TRAIN, VAL, TEST}
    if n_old + n_new >= len(needed):
        assert needed <= set(splits[labels == 0].tolist())


def test_another_seed_is_another_split():
    ids = ids_of(1000)
    assert not np.array_equal(split(ids, seed=8).splits, split(ids).splits)


def test_an_official_test_set_gets_nothing_new():
    official = mark(1000, *range(0, 1000, 5))
    incoming = ~official & (np.arange(1000) > 500)
    splits = split(ids_of(1000), official_test=official, incoming=incoming).splits
    assert np.array_equal(splits == TEST, official)
    assert np.mean(splits[~official] == VAL) == pytest.approx(0.2, abs=0.05)
    assert not np.any(splits[~incoming] == RECENT)
    assert np.mean(splits[incoming] == RECENT) == pytest.approx(0.4, abs=0.05)


def test_near_duplicates_sit_on_one_side():
    ids, hashes = ids_of(900), far_hashes(900)
    for first in range(0, 900, 3):  # a chain: the ends differ in 8 bits, the middle in 4 from each
        hashes[first + 1] = hashes[first] ^ np.uint64(0b1111)
        hashes[first + 2] = hashes[first] ^ np.uint64(0xFF)
    grouped = split(ids, hashes=hashes)
    for first in range(0, 900, 3):
        assert len(set(grouped.splits[first : first + 3])) == 1
        assert len(set(grouped.groups[first : first + 3])) == 1
    assert grouped.dropped == []
    kept = split(ids, hashes=hashes, near_duplicates="keep")
    assert any(len(set(kept.splits[first : first + 3])) > 1 for first in range(0, 900, 3))
    assert np.array_equal(kept.groups, np.arange(900))


@given(
    data=st.data(),
    n_old=st.integers(4, 40),
    n_new=st.integers(0, 20),
    policy=st.sampled_from(["keep", "group", "drop"]),
    seed=st.integers(0, 9),
)
@settings(max_examples=200, deadline=None)
def test_given_groups_sit_on_one_side(data, n_old, n_new, policy, seed):
    n = n_old + n_new
    groups = np.array(data.draw(st.lists(st.integers(-1, 8), min_size=n, max_size=n)))
    hashes = np.array(data.draw(st.lists(st.integers(0, 255), min_size=n, max_size=n)), np.uint64)
    facts = {"groups": groups, "hashes": hashes, "incoming": np.arange(n) >= n_old}
    both = {"near_duplicates": policy, "near_duplicate_bits": 0, "seed": seed}
    ids = ids_of(n)
    found = split(ids, **facts, **both)
    alone = split(ids[:n_old], **{name: array[:n_old] for name, array in facts.items()}, **both)
    assert np.array_equal(found.splits[:n_old], alone.splits)  # what comes later moves nothing
    for group in range(9):
        assert len({*found.splits[groups == group].tolist()} - {UNUSED}) <= 1
    if policy == "group":
        for value in np.unique(hashes):
            assert len({*found.splits[hashes == value].tolist()} - {UNUSED}) <= 1
    if policy == "keep":
        assert not any(row < n_old for row, _, _ in found.dropped)


def test_a_group_is_not_dropped_for_one_copy_of_a_test_image():
    hashes = far_hashes(12)
    hashes[3] = hashes[11]
    found = split(ids_of(12), hashes=hashes, groups=np.repeat([0, 1, -1], [6, 5, 1]), official_test=mark(12, 11))
    assert [row for row, _, _ in found.dropped] == [3]
    assert len({*found.splits[[0, 1, 2, 4, 5]].tolist()}) == 1
    new = split(
        ids_of(13),
        hashes=np.append(hashes, far_hashes(20)[19]),
        groups=np.append(np.repeat([0, 1, 2], [6, 5, 1]), 2),
        official_test=mark(13, 11),
        incoming=mark(13, 12),
    )
    assert new.dropped[-1] == (12, 11, "in one group with a test image")


def test_drop_keeps_the_first_of_each_label():
    hashes = far_hashes(6)
    hashes[[1, 3, 4]] = hashes[0]
    found = split(ids_of(6), hashes=hashes, labels=np.array([0, 0, 0, 1, 1, 1]), near_duplicates="drop")
    assert found.dropped == [(1, 0, "near-duplicate"), (4, 3, "near-duplicate")]
    assert found.splits[[1, 4]].tolist() == [UNUSED, UNUSED]
    assert found.splits[0] == found.splits[3] != UNUSED


@pytest.mark.parametrize("policy", ["group", "drop"])
def test_what_resembles_a_test_image_leaves_train(policy):
    hashes = far_hashes(6)
    hashes[[0, 2, 4, 5]] = hashes[3]
    found = split(ids_of(6), hashes=hashes, official_test=mark(6, 3, 4), near_duplicates=policy)
    assert found.splits[[0, 2, 3, 4, 5]].tolist() == [UNUSED, UNUSED, TEST, TEST, UNUSED]
    assert found.dropped == [(row, 3, "near-duplicate of a test image") for row in (0, 2, 5)]


@given(
    data=st.data(),
    n_old=st.integers(1, 30),
    n_new=st.integers(0, 30),
    n_test=st.sampled_from([0, 2]),
    policy=st.sampled_from(["group", "drop"]),
)
@settings(max_examples=200, deadline=None)
def test_incoming_images_sit_with_what_they_resemble(data, n_old, n_new, n_test, policy):
    n = n_old + n_new
    # Hashes from a small space, near each other, so that new images bridge old groups and test images all the time.
    hashes = np.array(data.draw(st.lists(st.integers(0, 255), min_size=n, max_size=n)), np.uint64)
    ids, official = ids_of(n), mark(n, *range(n_old)[-n_test:] if n_test else ())
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    both = {"near_duplicates": policy, "near_duplicate_bits": 1}
    new = {"labels": labels, "hashes": hashes, "official_test": official, "incoming": np.arange(n) >= n_old}
    splits = split(ids, **new, **both).splits
    assert np.array_equal(
        splits[:n_old], split(ids[:n_old], **{name: array[:n_old] for name, array in new.items()}, **both).splits
    )
    assert np.all(splits[official] == TEST)
    close = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 1
    for row in np.flatnonzero(splits != UNUSED):
        assert set(splits[close[row]].tolist()) - {UNUSED} == {splits[row]}


def test_an_incoming_image_may_move_with_a_later_one():
    ids, hashes = ids_of(200), far_hashes(200)
    hashes[100:] = hashes[:100]  # the later half repeats the earlier one
    new = np.ones(200, bool)
    alone = split(ids[:100], hashes=hashes[:100], incoming=new[:100]).splits
    found = split(ids, hashes=hashes, incoming=new)
    moved = found.splits[:100] != alone
    smaller = np.array([row if ids[row].tobytes() < ids[row + 100].tobytes() else row + 100 for row in range(100)])
    assert found.groups[:100].tolist() == smaller.tolist()
    assert np.any(moved)
    assert not np.any(moved & (smaller < 100))
    old = ~mark(200, *range(100, 200))
    of_old = split(ids[:100], hashes=hashes[:100]).splits
    assert np.array_equal(split(ids, hashes=hashes, incoming=~old).splits, np.tile(of_old, 2))


@given(data=st.data(), n=st.integers(1, 60), bits=st.integers(0, 8), spread=st.sampled_from([3, 8, 16, 64]))
@settings(max_examples=100, deadline=None)
def test_the_search_finds_what_comparing_all_pairs_finds(data, n, bits, spread):
    hashes = np.array(data.draw(st.lists(st.integers(0, 2**spread - 1), min_size=n, max_size=n)), np.uint64)
    linked = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
    for _ in range(n):  # transitive closure by brute force
        linked = linked @ linked
    assert near_duplicate_components(hashes, bits=bits).tolist() == linked.argmax(axis=1).tolist()


def test_the_search_does_not_compare_all_pairs():
    hashes = np.random.default_rng(0).integers(0, 2**64, 200_000, np.uint64)  # 2e10 pairs would take minutes
    hashes[150_000] = hashes[3] ^ np.uint64(1 << 63 | 1 << 31 | 1 << 15 | 1)
    components = near_duplicate_components(hashes, bits=4)
    assert np.flatnonzero(components != np.arange(200_000)).tolist() == [150_000]
    assert components[150_000] == 3


def check(splits, labels, *, official=(), incoming=(), groups=None, classes=("cat", "dog")):
    n = len(splits)
    check_classes(
        Assignment(np.array(splits), np.arange(n) if groups is None else np.array(groups), [], np.arange(n)),
        np.array(labels, int),
        classes=classes,
        official_test=mark(n, *official),
        incoming=mark(n, *incoming),
        listed_in=Path("duplicates.csv"),
    )


def test_every_class_needs_an_image_in_every_split():
    check([0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1])
    check([0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1], official=[2, 5])
    with pytest.raises(DataError, match=r"found only one class, 'dog'; expected at least two"):
        check([0, 1, 2, -1], [1, 1, 1, 0])
    with pytest.raises(DataError, match="found no usable images"):
        check([-1], [0])
    with pytest.raises(
        DataError, match=r"class 'dog' has 2 usable images for 3 splits \(train, val, test\); add images"
    ):
        check([0, 1, 2, 0, 1], [0, 0, 0, 1, 1])
    with pytest.raises(DataError, match=r"class 'cat' has 1 usable image for 2 splits \(train, val\); add images"):
        check([0, 2, 0, 1, 2], [0, 0, 1, 1, 1], official=[1, 4])
    message = (
        r"class 'dog' has 4 images in 2 groups of near-duplicates \(or of preprocess.group_by\), which stay together, "
        "and none is left for val; "
        r"duplicates.csv lists them: .*lower preprocess.near_duplicate_bits"
    )
    with pytest.raises(DataError, match=message):
        check([0, 1, 2, 0, 0, 2, 2], [0, 0, 0, 1, 1, 1, 1], groups=[0, 1, 2, 3, 3, 5, 5])


def test_only_incoming_classes_may_lack_official_test_images():
    check([0, 1, 2, 0, 1, 3], [0, 0, 0, 1, 1, 1], official=[2], incoming=[3, 4, 5])
    with pytest.raises(DataError, match=r"class 'dog' has 2 usable images for 3 splits \(train, val, recent\); add"):
        check([0, 1, 2, 0, 1], [0, 0, 0, 1, 1], official=[2], incoming=[3, 4])
    with pytest.raises(DataError, match="class 'dog' has no images in the official test set; add some or remove"):
        check([0, 1, 2, 0, 1], [0, 0, 0, 1, 1], official=[2], incoming=[3])
