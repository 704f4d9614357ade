import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.promotion.slices import slices_by, source_folder, source_folders

LIKE_EVERY_TIME = settings(deadline=None, derandomize=True, database=None, max_examples=100)


def counts(**attributes):
    return {part.name: int(part.members.sum()) for part in slices_by(attributes)}


def test_numbers_are_cut_at_their_terciles():
    brightness = np.arange(90) + 0.5
    expected = {"brightness up to 29.5": 30, "brightness above 29.5, up to 59.5": 30, "brightness above 59.5": 30}
    assert counts(brightness=brightness) == expected


def test_pixels_are_counted_in_full():
    sizes = np.repeat([784, 1_000_000, 12_000_000], 10)
    names = ["size up to 784", "size above 784, up to 1,000,000", "size above 1,000,000"]
    assert counts(size=sizes) == dict.fromkeys(names, 10)


def test_an_attribute_that_is_the_same_everywhere_makes_no_slice():
    same = {
        "size": np.full(9, 784),
        "brightness": np.zeros(9),
        "source": np.array([""] * 9),
        "incoming": np.zeros(9, bool),
    }
    assert slices_by(same) == []


def test_a_value_that_most_images_share_is_a_slice_of_its_own():
    assert counts(size=np.array([784] * 8 + [900])) == {"size up to 784": 8, "size above 784": 1}
    assert counts(size=np.array([600] + [784] * 8)) == {"size up to 600": 1, "size above 600": 8}


def test_incoming_images_are_told_from_the_original_ones():
    assert counts(incoming=np.array([True, False, False])) == {"original": 2, "incoming": 1}


def test_images_are_distinguished_by_folders_inside_their_class():
    sources = source_folders(["cat/kitchen/1.jpg", "dog/kitchen/2.jpg", "dog/3.jpg"], ["cat", "dog", "dog"])
    assert counts(source=sources) == {"source (no directory)": 1, "source kitchen": 2}


@pytest.mark.parametrize(
    ("source", "label", "folder"),
    [
        ("00007", "3", ""),
        ("test/00007", "3", ""),
        ("test/dogs/dog.7.jpg", "dogs", ""),
        ("Testing/dogs/7.jpg", "dogs", ""),
        ("val/dogs/7.jpg", "dogs", ""),
        ("train/dogs/garden/2024/7.jpg", "dogs", "garden/2024"),
        ("incoming/cat/phone/x.jpg", "cat", "phone"),
        ("incoming/cat/x.jpg", "cat", ""),
        ("train/x/7.jpg", "train", "x"),  # a class that is called train
    ],
)
def test_class_and_split_are_no_source(source, label, folder):
    assert source_folder(source, label) == folder


@LIKE_EVERY_TIME
@given(st.lists(st.floats(0, 255), min_size=1, max_size=60))
def test_every_image_is_in_one_slice_and_equal_ones_together(values):
    found = slices_by({"brightness": np.array(values)})
    assert 2 <= len(found) <= 3 or len(set(values)) == 1
    if found:
        members = np.array([part.members for part in found])
        assert (members.sum(axis=0) == 1).all()
        assert members.any(axis=1).all()
        where = dict(zip(values, members.argmax(axis=0).tolist(), strict=True))
        assert [where[value] for value in values] == members.argmax(axis=0).tolist()
