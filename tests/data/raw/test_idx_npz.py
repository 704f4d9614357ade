"""IDX and npz files as blocks of images."""

import gzip
import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from darkroom.data.raw import idx_npz
from darkroom.data.raw.idx_npz import Block, idx_blocks, npz_blocks
from darkroom.errors import DataError
from tests.support.raw_files import idx, pixels, write_idx, write_zip

LIMIT = 10_000_000
SMALL: dict[str, Any] = {
    "x_train": pixels(7, 5, 4),
    "y_train": np.arange(7),
    "x_test": pixels(3, 5, 4, seed=1),
    "y_test": np.arange(3),
}


def read_idx(paths: list[Path], classes: list[str] | None = None, limit: int = LIMIT) -> list[Block]:
    return list(idx_blocks(paths, classes=classes, max_archive_bytes=limit))


def read_npz(path: Path, classes: list[str] | None = None, limit: int = LIMIT) -> list[Block]:
    return list(npz_blocks(path, classes=classes, max_archive_bytes=limit))


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_give_train_then_test(tmp_path: Path, compressed: bool) -> None:
    train, test = read_idx(write_idx(tmp_path, compressed=compressed, **SMALL)[::-1])
    assert (train.split, test.split) == ("train", "test")
    assert train.labels == ["0", "1", "2", "3", "4", "5", "6"]
    np.testing.assert_array_equal(train.pixels, SMALL["x_train"])
    np.testing.assert_array_equal(test.pixels, SMALL["x_test"])


def test_blocks_are_bounded_and_together_they_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx_npz, "BLOCK_BYTES", 45)  # two images of 20 bytes
    for blocks in (read_idx(write_idx(tmp_path, **SMALL)), _saved(tmp_path, **SMALL)):
        assert [len(block.labels) for block in blocks] == [2, 2, 2, 1, 2, 1]
        np.testing.assert_array_equal(np.concatenate([b.pixels for b in blocks[:4]]), SMALL["x_train"])


def _saved(directory: Path, **kinds: Any) -> list[Block]:
    np.savez(directory / "data.npz", **kinds)
    return read_npz(directory / "data.npz")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(array=stn.arrays(np.uint8, stn.array_shapes(min_dims=3, max_dims=3, max_side=6)), seed=st.integers(0, 99))
def test_idx_and_npz_of_the_same_arrays_give_the_same_blocks(tmp_path: Path, array: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 10, len(array), dtype=np.uint8)
    (from_idx,) = read_idx(write_idx(tmp_path, compressed=seed % 2 == 1, x_train=array, y_train=labels))
    (from_npz,) = _saved(tmp_path, images=array, labels=labels)
    assert from_idx.labels == from_npz.labels
    np.testing.assert_array_equal(from_idx.pixels, from_npz.pixels)
    for path in tmp_path.iterdir():
        path.unlink()


def test_numbers_become_class_names(tmp_path: Path) -> None:
    names = ["Coat", "Bag", "Shirt"]
    data: dict[str, Any] = {"x_train": pixels(3, 4, 4), "y_train": np.array([2, 0, 1])}
    assert read_idx(write_idx(tmp_path, **data), classes=names)[0].labels == ["Shirt", "Coat", "Bag"]
    np.savez(tmp_path / "a.npz", **data)
    assert read_npz(tmp_path / "a.npz", classes=names)[0].labels == ["Shirt", "Coat", "Bag"]
    with pytest.raises(DataError, match="label 2 is out of range; the classes are 0 to 1"):
        read_npz(tmp_path / "a.npz", classes=names[:2])


def test_colour_keeps_its_channels_and_a_single_one_is_dropped(tmp_path: Path) -> None:
    y = np.array([0, 1])
    assert _saved(tmp_path, images=pixels(2, 4, 5, 3), labels=y)[0].pixels.shape == (2, 4, 5, 3)
    assert _saved(tmp_path, images=pixels(2, 4, 5, 1), labels=y)[0].pixels.shape == (2, 4, 5)


def test_npz_without_test_images_brings_no_split(tmp_path: Path) -> None:
    data = {"x_train": pixels(2, 4, 4), "y_train": np.array([["cat"], ["dog"]])}
    (block,) = _saved(tmp_path, **data)
    assert (block.split, block.labels) == (None, ["cat", "dog"])


CUT: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: data[:-1], r"is truncated: 1 bytes are missing"),
    (lambda data: data[:10], r"is truncated"),
    (lambda data: data[:0], r"is truncated"),
    (lambda data: data + b"\0", r"is longer than its header says"),
    (lambda data: b"<html>" + data, r"not an IDX file of unsigned bytes"),
    (lambda data: gzip.compress(data)[:-12], r"is truncated"),
    (lambda data: gzip.compress(data)[:-8] + bytes(8), r"is damaged"),
]


@pytest.mark.parametrize(("change", "message"), CUT)
def test_damaged_idx_files_are_refused(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    paths = write_idx(tmp_path, x_train=pixels(3, 4, 4), y_train=np.arange(3))
    paths[0].write_bytes(change(paths[0].read_bytes()))
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte.*{message}"):
        read_idx(paths)


def test_idx_counts_that_disagree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 images, but 2 labels"):
        read_idx(write_idx(tmp_path, x_train=pixels(3, 4, 4), y_train=np.arange(2)))


def test_idx_files_come_in_pairs_and_include_training_images(tmp_path: Path) -> None:
    paths = write_idx(tmp_path, **SMALL)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte: the matching labels file is missing"):
        read_idx(paths[:3])
    with pytest.raises(DataError, match=r"expected a file train-images-idx3-ubyte\(\.gz\), found 't10k-images"):
        read_idx(paths[2:])


def test_an_idx_header_that_claims_too_much_is_refused_unread(tmp_path: Path) -> None:
    paths = write_idx(tmp_path, x_train=pixels(3, 4, 4), y_train=np.arange(3))
    paths[0].write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12))
    with pytest.raises(
        DataError, match=re.escape("unpacks to 79,228,162,458,924,105,385,300,197,375 bytes, more than")
    ):
        read_idx(paths)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"pictures": pixels(2, 4, 4)}, r"expected the arrays x_train, y_train, .* found 'pictures'"),
        ({"x_train": pixels(2, 4, 4)}, r"found 'x_train'"),
        (
            {"images": np.zeros((2, 4, 4)), "labels": np.arange(2)},
            r"images is float64, shape \(2, 4, 4\); expected uint8",
        ),
        ({"images": pixels(2, 16), "labels": np.arange(2)}, r"images is uint8, shape \(2, 16\)"),
        ({"images": pixels(2, 4, 4, 2), "labels": np.arange(2)}, r"shape \(2, 4, 4, 2\)"),
        ({"images": pixels(2, 4, 4), "labels": np.eye(2)}, r"labels is float64, shape \(2, 2\); expected integers"),
        ({"images": pixels(2, 4, 4), "labels": np.arange(3)}, r"2 images, but 3 labels"),
        ({"images": np.asfortranarray(pixels(2, 4, 4)), "labels": np.arange(2)}, r"images is in Fortran order"),
        ({"images": np.array([{}, {}]), "labels": np.arange(2)}, r"images holds Python objects"),
        ({"images": pixels(2, 0, 4), "labels": np.arange(2)}, r"has no pixels"),
    ],
)
def test_npz_files_of_other_arrays_are_refused(tmp_path: Path, data: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _saved(tmp_path, **data)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (2,", "labels is not an npy array"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (2L,", "labels is not an npy array"),
        ("  {\n 'descr': 1", "labels is not an npy array"),
        ("(" * 5000, "labels is not an npy array"),
        ("-" * 9000 + "1", "labels is not an npy array|cannot be read"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-2,)}", r"labels is damaged \(its shape is \(-2,\)\)"),
    ],
)
def test_a_damaged_npy_header_is_refused(tmp_path: Path, header: str, message: str) -> None:
    labels = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(2)
    images = io.BytesIO()
    np.save(images, pixels(2, 4, 4))
    write_zip(tmp_path / "a.npz", {"images.npy": images.getvalue(), "labels.npy": labels})
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "a.npz")


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **SMALL)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-50])
    with pytest.raises(DataError, match="is truncated"):
        read_npz(tmp_path / "a.npz")


def test_a_flipped_bit_in_an_npz_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **SMALL)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(SMALL["x_train"].tobytes()) + 9] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        read_npz(tmp_path / "a.npz")


def test_an_npz_bomb_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((1000, 50, 50), np.uint8), labels=np.arange(1000))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    with pytest.raises(DataError, match=r"unpacks to at least 2,508,\d+ bytes, more than 1,000,000"):
        read_npz(tmp_path / "a.npz", limit=1_000_000)


def test_idx_of_the_test_builder_is_the_documented_format() -> None:
    assert idx(np.array([[1, 2]], np.uint8)) == b"\0\0\x08\x02\0\0\0\x01\0\0\0\x02\x01\x02"
